"""One HTTP/1.1 connection: uvicorn's, with llhttp as its parser, and what that leaves open.

The parser is several times faster than h11, but bounds nothing: the limits on a request's head are
ours. A request that asks for an upgrade (Java's client does with its first) is answered as if it
had not, body and all, as RFC 9110 section 7.8 allows. And a client that hangs up ends the work on
its request at once.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.api.front import GONE

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
_UPGRADE_HEADERS = (b"connection", b"upgrade", b"http2-settings")


class Connection(HttpToolsProtocol):
    """A client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._head_bytes = self._unfinished_bytes = 0
        self._in_head = False
        self._replaying = False
        self._leaving = False
        self._working: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and with it the request that nobody waits for any more."""
        super().connection_lost(exc)
        working, cycle = self._working, self.cycle
        if working is not None and cycle is not None and not cycle.response_complete:
            cycle.scope["state"][GONE] = True
            working.cancel()

    def leave(self) -> None:
        """Close behind the next answer, or behind the one that is under way, and say so in it."""
        self._leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def look_for_hang_up(self) -> None:
        """End the work for a client that is gone, which nothing else tells while its body waits."""
        if self.flow.read_paused and _is_gone(self.transport.get_extra_info("socket")):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
            if self._in_head:
                # A header comes to us when it is whole; one that never ends must not grow for ever.
                self._unfinished_bytes += len(data)
                self._check(self._unfinished_bytes)
        except _HeadTooLargeError:
            self._refuse_head()
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _HeadTooLargeError):
                raise
            self._refuse_head()
        except httptools.HttpParserError:
            self._refuse(400, "This is no valid HTTP request.")

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._replaying:
            self._head_bytes = self._unfinished_bytes = 0
            self._in_head = True
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its address."""
        if not self._replaying:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        if not self._replaying:
            self._head_bytes += len(name) + len(value) + 4
            self._check(self._head_bytes)
            if len(self.headers) >= MAX_HEADERS:
                raise _HeadTooLargeError
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The end of its head."""
        self._in_head = False
        if not self._replaying:
            super().on_headers_complete()
            if self._leaving:
                self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The end of it."""
        if self.parser.should_upgrade():
            return  # the body is still to come, see _go_on_without_upgrade
        super().on_message_complete()
        # A large body's last part may have stopped the reading, and with it the news of a hang-up.
        self.flow.resume_reading()

    def _check(self, size_bytes: int) -> None:
        if size_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLargeError

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Read on behind the head as if no upgrade had been asked for.

        The parser takes no more of this connection, so a new one is shown the head again.
        """
        kept = [pair for pair in self.headers if pair[0] not in _UPGRADE_HEADERS]
        lines = [b"%s: %s\r\n" % pair for pair in kept]
        method = self.scope["method"].encode()
        head = b"".join([method, b" ", self.url, b" HTTP/1.1\r\n", *lines, b"\r\n"])
        self.parser = httptools.HttpRequestParser(self)
        self._replaying = True
        try:
            self.parser.feed_data(head)
        finally:
            self._replaying = False
        if rest:
            self.data_received(rest)

    def _refuse_head(self) -> None:
        limit = f"{MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes"
        self._refuse(431, f"The head of the request has more than {limit}.")

    def _refuse(self, status: int, message: str) -> None:
        text = message.encode()
        head = [
            STATUS_LINE[status],
            b"content-type: text/plain; charset=utf-8\r\n",
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(text),
        ]
        self.transport.write(b"".join([*head, text]))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._working = task


def _is_gone(peer: socket.socket) -> bool:
    """The other side has hung up, although there may be bytes of it left to read."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(peer.fileno(), getattr(select, "POLLRDHUP", 0))  # besides POLLHUP and POLLERR
    return bool(poll.poll(0))


class _HeadTooLargeError(Exception):
    """Raised to the parser, which stops."""

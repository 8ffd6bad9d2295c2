"""One HTTP/1.1 connection: uvicorn's, with llhttp as its parser, and what that leaves open.

The parser is several times faster than h11, but bounds nothing: the limits on a request's head are
ours. A request that asks for an upgrade (Java's client does with its first) is answered as if it
had not, body and all, as RFC 9110 section 7.8 allows. And a client that hangs up ends the work on
its request at once. One that only says that it will send no more looks the same, but is answered:
it is told to continue, which the system of a client that is gone refuses.
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
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_READ_END = getattr(select, "POLLRDHUP", 0)


class Connection(HttpToolsProtocol):
    """A client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._head_bytes = self._unfinished_bytes = 0
        self._in_head = False
        self._replaying = False
        self._leaving = False
        self._working: tuple[RequestResponseCycle, asyncio.Task[None]] | None = None
        self._refusal: bytes | None = None  # of what came behind requests that are not answered yet
        self._ended = False  # the client sends no more
        self._asked = False  # it was told to continue

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and with it the request that nobody waits for any more."""
        super().connection_lost(exc)
        if self._working is None:
            return
        cycle, task = self._working
        if not cycle.response_complete:
            cycle.disconnected = True  # others may be in line behind it
            cycle.scope["state"][GONE] = True
            task.cancel()

    def leave(self) -> None:
        """Close behind the next answer, or behind the one that is under way, and say so in it."""
        self._leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more; true where it may wait for an answer nevertheless."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or not self._ask():
            return False
        cycle.keep_alive = False
        self._ended = True
        return True

    def look_for_hang_up(self) -> None:
        """End the work for a client that is gone, which nothing else tells while none reads."""
        if self.transport.is_closing() or not (self._ended or self.flow.read_paused):
            return
        peer = self.transport.get_extra_info("socket")
        # Behind its end there may be bytes of it that were not read yet.
        if _has(peer, 0) or (not self._asked and _has(peer, _READ_END) and not self._ask()):
            self.transport.abort()

    def _ask(self) -> bool:
        """Tell a client that has ended its side to continue; false where that can't be said."""
        cycle = self._working[0] if self._working else None
        if cycle is None or cycle.response_started or cycle.scope["http_version"] != "1.1":
            return False
        self._asked = True
        self.transport.write(_CONTINUE)
        return True

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._refusal is not None:
            return
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
            if isinstance(error.__context__, _HeadTooLargeError):
                self._refuse_head()
            elif isinstance(error.__context__, (_HostError, httptools.HttpParserInvalidURLError)):
                self._refuse(400, "The address or the Host header of the request is not valid.")
            else:
                raise
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
            self._head_bytes += len(url)
            self._check(self._head_bytes)
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
            hosts = sum(name == b"host" for name, _ in self.headers)
            if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
                raise _HostError  # RFC 9112, 3.2
            super().on_headers_complete()
            if self._leaving:
                self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The end of it."""
        if self.parser.should_upgrade():
            return  # the body is still to come, see _go_on_without_upgrade
        super().on_message_complete()
        # A large body's last part may have stopped the reading, and with it the news of a hang-up.
        # While requests are in line, it is to be stopped.
        if not self.pipeline:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """A request was answered."""
        last = not self.pipeline
        super().on_response_complete()
        if last and self._refusal is not None and not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.close()

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
        answer, cycle = b"".join([*head, text]), self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            self.transport.write(answer)
            self.transport.close()
        else:
            self._refusal = answer  # first the answers to what came before

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._working = cycle, task


def _has(peer: socket.socket, event: int) -> bool:
    """Whether an event of the other side waits at a socket, or that it is gone altogether."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(peer.fileno(), event)  # besides POLLHUP and POLLERR
    return bool(poll.poll(0))


class _HeadTooLargeError(Exception):
    """Raised to the parser, which stops."""


class _HostError(Exception):
    """Raised to the parser: not exactly one Host header."""

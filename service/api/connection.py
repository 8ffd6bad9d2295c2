"""One HTTP/1.1 connection: uvicorn's, with llhttp as its parser, and what that leaves open.

The parser is several times faster than h11, but bounds nothing: the limits on a request's head and
on the time that a client takes are ours. A request that asks for an upgrade (Java's client does
with its first) is answered as if it had not, body and all, as RFC 9110 section 7.8 allows. And a
client that hangs up ends the work on its request at once. One that only says that it will send no
more looks the same, but is answered: it is told to continue, which the system of a client that is
gone refuses. HTTP/1.0 has no such words, and TLS no such half: there it counts as gone.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.api.crowd import Crowd, Leaver
from service.api.front import GONE, OUT_OF_TIME, TOO_SLOW
from service.api.head import HeadError, check_head, plain_answer, with_path

_UPGRADE_HEADERS = (b"connection", b"upgrade", b"http2-settings")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# A client that is turned away is given so long to read why.
_TURN_AWAY_S = 1.0
LOOK_EVERY_S = 0.5
# How metrics name what is refused here, before it is a request.
_CODES = {
    400: "bad_request",
    408: "request_too_slow",
    431: "head_too_large",
    501: "not_implemented",
}
_READ_END = getattr(select, "POLLRDHUP", 0)


class Connection(HttpToolsProtocol):
    """A client's connection."""

    def __init__(
        self, *args: Any, crowd: Crowd, begun: Callable[[], None] | None = None, **others: Any
    ) -> None:
        """Be one of a crowd, and say so when it has ``begun``; the rest is uvicorn's."""
        super().__init__(*args, **others)
        self._crowd = crowd
        self._begun = begun
        self._limits = crowd.limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        if self._begun is not None:
            self._begun()
        self._head_bytes = self._unfinished_bytes = 0
        self._in_head = self._in_body = False
        self._moved = False  # a head began, or some of a body came, in the bytes just read
        self._waited_s = self._pause_s = 0.0  # for the head or the body, and for more of the body
        self._received_bytes = self._received_before = self._seen_bytes = 0
        self._unsent_bytes, self._unsent_s = 0, 0.0
        self._idle_among: dict[Leaver, None] | None = None
        self._turned_away = self._told = False
        self._replaying = False
        self._leaving = False
        self._working: tuple[RequestResponseCycle, asyncio.Task[None]] | None = None
        self._refusal: bytes | None = None  # of what came behind requests that are not answered yet
        self._ended = False  # the client sends no more
        self._asked = False  # it was told to continue
        if self._crowd.admit():
            self._rest(self._crowd.silent)
        else:
            self._turn_away()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and with it the request that nobody waits for any more."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._rest(None)
        self._crowd.lose(turned_away=self._turned_away)
        if self._working is None:
            return
        cycle, task = self._working
        if not cycle.response_complete:
            cycle.disconnected = True  # others may be in line behind it
            cycle.scope["state"][GONE] = True
            task.cancel()

    def leave(self) -> None:
        """Close behind an answer that says so: the one that is to begin next."""
        self._leaving = True
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more; true where it may wait for an answer nevertheless."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or self.scheme == "https":
            return False
        if not self._ask():
            return False
        cycle.keep_alive = False
        self._ended = True
        return True

    def make_room(self) -> None:
        """Close: nothing is under way here, and there are too many."""
        self._idle_among = None
        self.transport.close()

    def look_for_slowness(self, passed_s: float) -> None:
        """Give up a client that takes too long, so long after the last look."""
        if self._in_head:
            self._waited_s += passed_s
            if self._waited_s > self._limits.head_timeout_s:
                self._in_head = False
                limit = f"{self._limits.head_timeout_s:g} s"
                self._refuse(408, f"The head of the request took longer than {limit}.")
        elif self._in_body and not (self.flow.read_paused or self.pipeline):
            self._look_at_body(passed_s)
        unsent_bytes = self.transport.get_write_buffer_size()
        # Most clients read nothing before they have sent everything.
        sends = self._in_body and self._received_bytes != self._received_before
        self._received_before = self._received_bytes
        if sends or not unsent_bytes or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._unsent_s = unsent_bytes, 0.0
        else:
            self._unsent_s += passed_s
            if self._unsent_s > self._limits.send_timeout_s:
                self.transport.abort()

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
        if self._refusal is not None or self._turned_away:
            self._say_turned_away()
            return
        self._unset_keepalive_if_required()
        if self._idle_among is not None:
            self._rest(None)
        self._received_bytes += len(data)
        try:
            while data:
                data = self._feed(data)
        except HeadError as error:
            self._refuse(error.status, error.message)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, HeadError):
                self._refuse(error.__context__.status, error.__context__.message)
            elif isinstance(error.__context__, httptools.HttpParserInvalidURLError):
                self._refuse(400, "The address or the Host header of the request is not valid.")
            else:
                raise
        except httptools.HttpParserError:
            self._refuse(400, "This is no valid HTTP request.")
        if self._is_idle():
            # Empty lines between two requests; what was open goes on to be idle.
            self._rest(self._crowd.silent if self.cycle is None else self._crowd.kept_alive)

    def _feed(self, data: bytes) -> bytes:
        """Show bytes to the parser; what it left is for another one."""
        self._moved = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade()
            return data[upgrade.args[0] :]
        # A header, a chunk's or one behind the body comes to us when it is whole; one that never
        # ends must not grow for ever. Before one that began here there may be a whole pipeline.
        if self._moved:
            self._unfinished_bytes = 0
        elif self._in_head or self._in_body:
            self._unfinished_bytes += len(data)
            self._check(self._unfinished_bytes)
        return b""

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._replaying:
            self._head_bytes = 0
            self._in_head = self._moved = True
            self._waited_s = -LOOK_EVERY_S  # up to so much of the first look was before
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its address."""
        if not self._replaying:
            self._head_bytes += len(url)
            self._check(self._head_bytes)
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        if self._replaying:
            return
        self._head_bytes += len(name) + len(value) + 4
        self._check(self._head_bytes)
        # Behind the body it would say who asks when that was asked already (RFC 9110, 6.5.1).
        if self._in_head:
            if len(self.headers) >= self._limits.headers:
                raise self._too_large()
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The end of its head."""
        self._in_head = False
        if not self._replaying:
            parser = self.parser
            check_head(parser.get_method(), parser.get_http_version(), self.headers)
            self.url = with_path(self.url)
            self._in_body = True
            self._waited_s = self._pause_s = -LOOK_EVERY_S
            self._received_bytes = self._seen_bytes = 0
            super().on_headers_complete()
            if self._leaving:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Some of its body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of it."""
        if self.parser.should_upgrade():
            return  # the body is still to come, see _go_on_without_upgrade
        self._in_body = False
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
        elif self._is_idle():
            self._rest(self._crowd.kept_alive)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limits.head_bytes:
            raise self._too_large()

    def _too_large(self) -> HeadError:
        limit = f"{self._limits.headers} headers and {self._limits.head_bytes} bytes"
        return HeadError(431, f"The head of the request has more than {limit}.")

    def _is_idle(self) -> bool:
        """Whether the next thing to happen is a new request."""
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        return not (self._in_head or self._in_body or self.transport.is_closing())

    def _rest(self, among: dict[Leaver, None] | None) -> None:
        """Be idle among these from now on; None: no longer."""
        if self._idle_among is not None:
            self._idle_among.pop(self, None)
        self._idle_among = among
        if among is not None:
            among[self] = None
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self._limits.keep_alive_s, self.timeout_keep_alive_handler
                )

    def _look_at_body(self, passed_s: float) -> None:
        limits, received = self._limits, self._received_bytes
        self._waited_s += passed_s
        self._pause_s = self._pause_s + passed_s if received == self._seen_bytes else 0.0
        self._seen_bytes = received
        rate = limits.body_bytes_per_s
        if self._pause_s > limits.body_pause_s:
            self._give_up_body(
                f"Nothing of the body came for {limits.body_pause_s:g} s (body_pause_timeout_s)."
            )
        elif self._waited_s > limits.body_timeout_s:
            self._give_up_body(
                f"The body took longer than {limits.body_timeout_s:g} s (body_timeout_s)."
            )
        elif rate and self._waited_s > limits.body_pause_s + received / rate:
            self._give_up_body(f"The body has less than {rate} bytes a second (min_body_rate).")

    def _give_up_body(self, reason: str) -> None:
        self._in_body = False
        self._cancel(TOO_SLOW, reason)

    def give_up(self) -> None:
        """Refuse what is under way here: the process is about to end."""
        self._cancel(OUT_OF_TIME, "")

    def _cancel(self, why: str, reason: str) -> None:
        cycle, task = self._working or (None, None)
        if cycle is None or task is None or cycle.response_started:
            self.transport.close()
        else:
            cycle.keep_alive = False
            cycle.scope["state"][why] = reason
            task.cancel()

    def _turn_away(self) -> None:
        self._turned_away = True
        self.connections.discard(self)
        if self._crowd.turn_away():
            self.loop.call_later(_TURN_AWAY_S, self.transport.abort)
        else:
            self.transport.abort()

    def _say_turned_away(self) -> None:
        """Answer once something was asked: bytes that nobody reads would drown the answer."""
        if not self._turned_away or self._told:
            return
        self._told = True
        message = "The service has as many connections as it may have; try again in a second."
        self.transport.write(plain_answer(503, message, b"retry-after: 1\r\n"))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _go_on_without_upgrade(self) -> None:
        """Be ready to read on behind the head as if no upgrade had been asked for.

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

    def _refuse(self, status: int, message: str) -> None:
        self._crowd.refused(_CODES[status])
        answer, cycle = plain_answer(status, message), self.cycle
        if self._in_body and self.pipeline:
            self.pipeline.popleft()  # the newest, whose body is wrong
            self._refusal = answer  # behind the answers to what came before
        elif cycle is None or cycle.response_complete or self._in_body:
            # Within an answer, or behind it, another one would be taken for the wrong thing.
            if not self._in_body or cycle is None or not cycle.response_started:
                self.transport.write(answer)
            self.transport.close()
        else:
            self._refusal = answer

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

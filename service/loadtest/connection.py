"""One connection: sends a request, waits for its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

from service.http_answer import AnswerError, AnswerReader

LOST = "connection lost"


@dataclass(slots=True)
class Request:
    """A request that is due or on its way.

    Attributes:
        due_s: When it is due, on the event loop's clock.
        counted: It is part of what is measured; requests of the warm-up are not.
        data: All of its bytes; they are there when it is sent.
        sent_s: When it was sent.
        again: It was on a connection before that the server closed meanwhile.
    """

    due_s: float
    counted: bool
    data: bytes = b""
    sent_s: float = 0.0
    again: bool = False


class Owner(Protocol):
    """Whoever is told what becomes of a connection."""

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """An answer is complete; the body is left out of good ones."""

    def lost(self, connection: Connection, reason: str) -> None:
        """It takes no more requests; the one on its way, if any, got no answer."""


class Connection(asyncio.Protocol):
    """A connection to the server.

    Attributes:
        answers: How many there were.
        keeps_open: The server takes another request.
    """

    def __init__(self, owner: Owner) -> None:
        """For an event loop to connect."""
        self._owner: Owner | None = owner
        self._transport: asyncio.Transport | None = None
        self._reader = AnswerReader()
        self._waiting = False
        self.answers = 0
        self.keeps_open = True

    @property
    def closed(self) -> bool:
        """It takes no more requests."""
        return self._owner is None

    @property
    def answer_begun(self) -> bool:
        """Some of the answer has arrived."""
        return self._reader.begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: Request, now_s: float) -> None:
        """Send a request; the one before has been answered."""
        assert self._transport is not None
        self._waiting, request.sent_s = True, now_s
        self._transport.write(request.data)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._owner is None:
            return
        try:
            complete = self._reader.feed(data)
        except AnswerError as error:
            self._lose(str(error))
            return
        if not self._waiting:
            self._lose("an answer without a request")
        elif complete:
            self._take_answer()

    def _take_answer(self) -> None:
        assert self._owner is not None
        reader = self._reader
        status, self.keeps_open = reader.status, reader.keeps_open
        body = b"" if status == 200 else reader.body()
        reader.clear()
        self.answers += 1
        self._waiting = False
        self._owner.answered(self, status, body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._lose(LOST)

    def _lose(self, reason: str) -> None:
        owner = self._owner
        self.abandon()
        if owner is not None:
            owner.lost(self, reason)

    def abandon(self) -> None:
        """Close it, whatever is on its way; nobody is told."""
        self._owner = None
        if self._transport is not None:
            self._transport.abort()

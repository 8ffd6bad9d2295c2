"""How much of bodies and answers of all requests is in memory, and what is refused beyond it."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from service.engine.errors import QueueFullError, RequestTooLargeError

# The beginning of each body is not counted: small requests go on while large ones fill the room.
_UNCOUNTED_BYTES = 2**20


class HeldBytes:
    """The room for bodies in one process; bodies are inflated in threads, so it has a lock."""

    def __init__(self, limit_bytes: int) -> None:
        """Begin with nothing in it."""
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._lock = threading.Lock()

    def check(self, more_bytes: int) -> None:
        """Refuse what there is no room for now.

        Raises:
            RequestTooLargeError: There never is.
            QueueFullError: Others have it.
        """
        limit = self._limit_bytes
        if more_bytes > limit:
            raise RequestTooLargeError(
                f"The request takes {more_bytes} bytes or more; the limit for bodies and answers of"
                f" all requests is {limit} (max_held_bytes).",
                hint="Send less in one request, ask for fewer classes (top_k) or an answer in"
                " lines, or raise max_held_bytes.",
            )
        if self._taken_bytes + more_bytes > limit:
            raise QueueFullError(
                f"Bodies and answers of requests take {self._taken_bytes} bytes; the limit is"
                f" {limit}.",
                hint="Retry after a second, or raise max_held_bytes.",
            )

    def take(self, more_bytes: int) -> None:
        """Take some of the room; raises what ``check`` raises."""
        with self._lock:
            self.check(more_bytes)
            self._taken_bytes += more_bytes

    def give_back(self, some_bytes: int) -> None:
        """Leave what was taken to others."""
        with self._lock:
            self._taken_bytes -= some_bytes


class Holding:
    """What one request has of the room: as much as it ever held at once, until it is answered."""

    __slots__ = ("_bytes", "_room")

    def __init__(self, room: HeldBytes) -> None:
        """Begin with nothing."""
        self._room = room
        self._bytes = 0

    def check(self, size_bytes: int) -> None:
        """Refuse to let it grow to a size; raises what ``HeldBytes.check`` raises."""
        more_bytes = size_bytes - _UNCOUNTED_BYTES - self._bytes
        if more_bytes > 0:
            self._room.check(more_bytes)

    def grow(self, size_bytes: int) -> None:
        """Let it grow to a size, if it is smaller; raises what ``HeldBytes.check`` raises."""
        more_bytes = size_bytes - _UNCOUNTED_BYTES - self._bytes
        if more_bytes > 0:
            self._room.take(more_bytes)
            self._bytes += more_bytes

    def end(self) -> None:
        """Leave all of it to others."""
        if self._bytes:
            self._room.give_back(self._bytes)
            self._bytes = 0


_current: ContextVar[Holding | None] = ContextVar("holding", default=None)


def begin_holding(room: HeldBytes) -> Holding:
    """Count what the request that this task works on holds in memory; ``end`` must follow."""
    holding = Holding(room)
    _current.set(holding)
    return holding


def check_room(size_bytes: int) -> None:
    """Refuse to hold so much for the request that this task works on.

    Raises:
        RequestTooLargeError: There never is room for it.
        QueueFullError: There is none now.
    """
    holding = _current.get()
    if holding is not None:
        holding.check(size_bytes)


def hold(size_bytes: int) -> None:
    """So much is held for the request that this task works on; raises as ``check_room`` does."""
    holding = _current.get()
    if holding is not None:
        holding.grow(size_bytes)

"""The connections of a port in a process: how many there may be, and who has to make room."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.access_settings import ConnectionSettings

# So many that come too late are told so; more are cut off without a word.
_TOLD_AT_ONCE = 256
_SAY_AGAIN_S = 60.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may send and how long it may take; ``service.access_settings`` says more."""

    connections: int
    head_bytes: int
    headers: int
    head_timeout_s: float
    body_pause_s: float
    body_timeout_s: float
    body_bytes_per_s: int
    send_timeout_s: float
    keep_alive_s: float


def connection_limits(settings: ConnectionSettings) -> ConnectionLimits:
    """Hand the settings down."""
    return ConnectionLimits(
        connections=settings.max_connections,
        head_bytes=settings.max_head_bytes,
        headers=settings.max_headers,
        head_timeout_s=settings.head_timeout_s,
        body_pause_s=settings.body_pause_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        body_bytes_per_s=settings.min_body_rate,
        send_timeout_s=settings.send_timeout_s,
        keep_alive_s=settings.keep_alive_s,
    )


class Leaver(Protocol):
    """A connection, as far as it can be asked to make room."""

    def make_room(self) -> None:
        """Close: nothing is under way here."""


class Crowd:
    """Who is idle, longest first, and how many were turned away.

    Connections that never asked anything make room before those that did: when somebody opens more
    and more of them, clients that work go on being served.

    Attributes:
        limits: Of each connection, and how many there may be.
        refused: Called with a code for what is refused before there is a request.
    """

    def __init__(self, limits: ConnectionLimits, refused: Callable[[str], None]) -> None:
        """Begin with nobody."""
        self.limits = limits
        self.refused = refused
        self.silent: dict[Leaver, None] = {}
        self.kept_alive: dict[Leaver, None] = {}
        self._staying = self._turned_away = 0
        self._said_at_s = -_SAY_AGAIN_S

    def admit(self) -> bool:
        """Whether one more may stay; somebody idle may have to leave for it."""
        if self._staying >= self.limits.connections:
            self._say()
            idle = self.silent or self.kept_alive
            if not idle:
                return False
            leaver = next(iter(idle))
            del idle[leaver]
            leaver.make_room()
        self._staying += 1
        return True

    def turn_away(self) -> bool:
        """One that may not stay; whether it can be told so."""
        self.refused("too_many_connections")
        self._turned_away += 1
        return self._turned_away <= _TOLD_AT_ONCE

    def lose(self, *, turned_away: bool) -> None:
        """One has left, which had been let in or turned away."""
        if turned_away:
            self._turned_away -= 1
        else:
            self._staying -= 1

    def _say(self) -> None:
        now_s = time.monotonic()
        if now_s - self._said_at_s >= _SAY_AGAIN_S:
            self._said_at_s = now_s
            _logger.warning(
                "there are %d connections, which is max_connections: idle ones are closed, and new"
                " ones are refused where none is idle",
                self.limits.connections,
            )

"""Tell requests apart: their ids, and a line for each in the access log."""

from __future__ import annotations

import itertools
import logging
import os
import re

from starlette.types import Scope

_logger = logging.getLogger("service.access")
_PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds; nobody wants to read that
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Takes the caller's ``X-Request-ID``, or makes one that no other process makes."""

    def __init__(self) -> None:
        """Draw what all ids of this process begin with."""
        # Drawn once: to ask the system for each would be a change of threads under load.
        self._prefix = os.urandom(5).hex()
        self._numbers = itertools.count()

    def of(self, scope: Scope) -> str:
        """The id of a request."""
        given = header(scope, b"x-request-id")
        if given is not None and _ACCEPTED_ID.fullmatch(text := given.decode("latin-1")):
            return text
        return f"{self._prefix}{next(self._numbers):06x}"


def header(scope: Scope, name: bytes) -> bytes | None:
    """A header's value, by its name in lower case; None without it."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def write_line(scope: Scope, status: int, took_s: float) -> None:
    """Write a request's line in the access log."""
    level = logging.DEBUG if scope["path"] in _PROBES else logging.INFO
    if not _logger.isEnabledFor(level):
        return
    _logger.log(
        level,
        "%s %s %d %.1f ms %s",
        scope["method"],
        # As it came, percent-encoded: decoded, a path could write a line of its own.
        scope["raw_path"].decode("latin-1"),
        status,
        took_s * 1e3,
        scope["state"]["request_id"],
    )

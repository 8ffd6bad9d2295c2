"""Tell requests apart: their ids, and a line for each in the access log."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import time
from typing import TextIO

from starlette.types import Scope

from service.api.auth.callers import Caller
from service.api.auth.gate import CALLER
from service.api.lifecycle import PROBES
from service.logs import ACCESS

_logger = logging.getLogger(ACCESS)
_LINE = "%s %s %d %.1f ms %s"
_GATHER_S = 0.05
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Version, trace, parent, flags, and what later versions may have behind them (W3C Trace Context).
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)


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


def caller_trace_id(scope: Scope) -> str | None:
    """The trace that a request's ``traceparent`` names, 32 hex digits; None without a valid one."""
    given = header(scope, b"traceparent")
    found = _TRACEPARENT.fullmatch(given.decode("latin-1")) if given is not None else None
    return found[1] if found else None


def header(scope: Scope, name: bytes) -> bytes | None:
    """A header's value, by its name in lower case; None without it."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


class AccessLog:
    """A line a request, written some at a time.

    To write each at once would cost a small request a tenth of its time: a record, a format and a
    system call, all in the way of the next request.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: list[tuple[float, int, tuple[object, ...]]] = []

    def add(self, scope: Scope, status: int, took_s: float) -> None:
        """Keep a request's line for a moment; on the event loop."""
        # Nobody wants to read those that come every few seconds.
        level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
        if not _logger.isEnabledFor(level):
            return
        # The path as it came, percent-encoded: decoded, it could write a line of its own.
        path = scope["raw_path"].decode("latin-1")
        state = scope["state"]
        caller: Caller | None = state.get(CALLER)
        who = caller.name if caller else None
        said = scope["method"], path, status, took_s * 1e3, state["request_id"]
        line = (*said, who, state["trace_id"])
        self._kept.append((time.time(), level, line))
        if len(self._kept) == 1:
            asyncio.get_running_loop().call_later(_GATHER_S, self.flush)

    def flush(self) -> None:
        """Write what is kept."""
        kept, self._kept = self._kept, []
        if not kept:
            return
        records = []
        for created_s, level, line in kept:
            # To read: the first five, and of the others those that there are.
            told = (*line[:5], *filter(None, line[5:]))
            text = _LINE + " %s" * (len(told) - 5)
            record = logging.LogRecord(ACCESS, level, "", 0, text, told, None)
            record.access = line
            record.created = created_s
            record.msecs = created_s % 1 * 1e3
            records.append(record)
        for handler in _handlers():
            if isinstance(handler, logging.StreamHandler):
                _write(handler, records)
            else:
                for record in records:
                    handler.handle(record)


def _write(handler: logging.StreamHandler[TextIO], records: list[logging.LogRecord]) -> None:
    """Write records with one system call; where that fails, as logging does."""
    lines = (handler.format(record) + handler.terminator for record in records)
    try:
        with handler.lock or contextlib.nullcontext():
            handler.stream.write("".join(lines))
            handler.flush()
    except Exception:  # a full disk or a closed pipe is no reason to stop serving
        handler.handleError(records[-1])


def _handlers() -> list[logging.Handler]:
    """Where lines of the access log go."""
    found: list[logging.Handler] = []
    logger: logging.Logger | None = _logger
    while logger is not None:
        found += logger.handlers
        logger = logger.parent if logger.propagate else None
    return found

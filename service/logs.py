"""The service's log: lines to read on a terminal, JSON lines for whatever collects them elsewhere.

Everything goes through here: our lines, uvicorn's, Python's warnings, and exceptions that nobody
caught. Lines that belong to a request carry its id, and its trace's where it has one.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from service.log_stream import LogHandler

ACCESS = "service.access"
# What the records of that logger have in "access", the last two perhaps None.
_ACCESS_FIELDS = ("method", "path", "status", "duration_ms", "request_id", "caller", "trace_id")
_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_TEXT_OF_WORKERS = "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"

# What is known of the request that runs in this context: "request_id", "trace_id".
REQUEST: ContextVar[Mapping[str, Any] | None] = ContextVar("request", default=None)
_logger = logging.getLogger(__name__)


def set_up_logs(level: str, form: Literal["auto", "text", "json"], *, several: bool) -> None:
    """Let the whole process log to standard error.

    Args:
        level: As ``logging`` names it, in any case.
        form: ``auto`` is text where standard error is a terminal, else JSON.
        several: Other processes write there too.
    """
    if form == "auto":
        form = "text" if sys.stderr.isatty() else "json"
    handler = LogHandler()
    handler.setFormatter(
        JsonFormatter() if form == "json" else TextFormatter(_TEXT_OF_WORKERS if several else _TEXT)
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    logging.logThreads = logging.logMultiprocessing = False  # every line would pay for them
    sys.excepthook = lambda kind, error, trace: _logger.critical(
        "the process ends", exc_info=(kind, error, trace)
    )
    threading.excepthook = _log_end_of_thread


class TextFormatter(logging.Formatter):
    """Lines to read, those of a request with its id at the end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, it is logging's name
        """Write all but the exception."""
        record.message = record.message.rstrip()  # warnings end in a line break
        text = super().formatMessage(record)
        request = REQUEST.get()
        if request is None or record.name == ACCESS:
            return text
        return f"{text} (request {request.get('request_id')})"


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, process, message, and what there is besides."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage().rstrip(),
        }
        if access := getattr(record, "access", None):
            line.update(zip(_ACCESS_FIELDS, access, strict=True))
            line["duration_ms"] = round(line["duration_ms"], 3)
        elif request := REQUEST.get():
            line.update(request_id=request.get("request_id"), trace_id=request.get("trace_id"))
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        line = {key: value for key, value in line.items() if value is not None}
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # text that is no Unicode, from a file's name say
            return orjson.dumps({key: _printable(value) for key, value in line.items()}).decode()


def _time(created_s: float) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    return datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds")


def _printable(value: object) -> str:
    return str(value).encode(errors="backslashreplace").decode()


def _log_end_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or isinstance(args.exc_value, SystemExit):
        return
    name = args.thread.name if args.thread else "?"
    _logger.error(
        "thread %s has ended", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )

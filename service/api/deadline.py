"""``X-Request-Timeout``: the time that a client gives one request."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from starlette.requests import Request

from service.engine.errors import InvalidParameterError

_NAME = "X-Request-Timeout"
_FRACTION = r"(?:\.[0-9]{1,6})?"
# More than nothing, and an hour at most: 3600 is the most that the setting allows, too.
_PATTERN = (
    "^(?=.*[1-9])(?:"
    rf"(?:[0-9]{{1,3}}|[0-2][0-9]{{3}}|3[0-5][0-9]{{2}}){_FRACTION} ?s?|"
    r"3600(?:\.0{1,6})? ?s?|"
    rf"[0-9]{{1,6}}{_FRACTION} ?ms)$"
)
_DURATION = re.compile(_PATTERN)

TimeoutHeader = Annotated[
    str | None,
    Header(
        alias=_NAME,
        description="time that the client gives this request: seconds, or '250ms'; at most an hour",
        # For the document only: Rust's regular expressions, which pydantic uses, can't look ahead.
        json_schema_extra={"pattern": _PATTERN},
        examples=["2.5", "250ms"],
    ),
]


def timeout_of(request: Request) -> float | None:
    """Time that a request's client gives it, seconds; None where it says nothing.

    Raises:
        InvalidParameterError: It is no time, or more than an hour.
    """
    text = request.headers.get(_NAME)
    if text is None:
        return None
    text = text.strip()
    if not _DURATION.match(text):
        raise InvalidParameterError(
            f"{_NAME} is {text[:40]!r}.",
            hint="Send seconds ('2.5') or milliseconds ('250ms'), at most an hour.",
        )
    return float(text[:-2]) / 1e3 if text.endswith("ms") else float(text.rstrip(" s"))

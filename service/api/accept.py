"""What a client wants to be answered in (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re

_WEIGHT = re.compile(r"q=(0(\.[0-9]{0,3})?|1(\.0{0,3})?)")


def read_accept(text: str) -> dict[str, float]:
    """The weights of an ``Accept`` header, from 0, not at all, to 1, by media range in lower case.

    An entry whose weight is no weight is passed over.
    """
    found: dict[str, float] = {}
    for entry in text.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        weights = [one for one in parameters if one.startswith("q=")]
        if not weights:
            found[name] = 1.0
        elif _WEIGHT.fullmatch(weights[0]):
            found[name] = float(weights[0][2:])
    return found


def quality(text: str, media_type: str) -> float:
    """How much a client wants a media type.

    Args:
        text: The ``Accept`` header; an empty one accepts all.
        media_type: Type and subtype, in lower case.
    """
    found = read_accept(text)
    ranges = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    # The most specific range that matches counts, whatever the others say.
    return next((found[name] for name in ranges if name in found), 0.0 if text.strip() else 1.0)

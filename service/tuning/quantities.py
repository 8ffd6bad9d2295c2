"""Durations and sizes, as people write them."""

from __future__ import annotations

import argparse
import math
import re

_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_duration(text: str) -> float:
    """Read ``20ms`` or ``0.5s``; returns seconds.

    Raises:
        argparse.ArgumentTypeError: It is no such text, or not above 0.
    """
    return _parse(text, _SECONDS, "a duration like 20ms or 0.5s")


def parse_size(text: str) -> int:
    """Read ``200MiB``; returns bytes.

    Raises:
        argparse.ArgumentTypeError: It is no such text, or not above 0.
    """
    return round(_parse(text, _BYTES, "a size like 200MiB or 1.5GiB"))


def _parse(text: str, units: dict[str, float] | dict[str, int], wanted: str) -> float:
    found = _QUANTITY.fullmatch(text)
    unit = units.get(found[2].lower()) if found else None
    value = float(found[1]) * unit if found and unit else 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def milliseconds(seconds: float) -> str:
    """Write a duration, to three digits."""
    value = seconds * 1e3
    return f"{value:.{_decimals(value)}f} ms" if math.isfinite(value) else "no answer"


def mebibytes(size_bytes: float) -> str:
    """Write a size."""
    return f"{size_bytes / 2**20:.0f} MiB"


def rate(per_s: float) -> str:
    """Write a number of images a second, to three digits at least."""
    return f"{per_s:.{_decimals(per_s)}f}"


def _decimals(value: float) -> int:
    if value >= 100 or not math.isfinite(value):
        return 0
    return 1 if value >= 10 else 2

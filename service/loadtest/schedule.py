"""When requests are due."""

from __future__ import annotations

import random
from collections.abc import Iterator

ARRIVALS = ("poisson", "constant")
_SEED = 20261121  # the same schedule every time, so that two runs differ by the server alone


def arrivals(kind: str, rate_per_s: float, until_s: float) -> Iterator[float]:
    """Times at which requests are due, in order.

    They are made as they are asked for, so that a schedule of any length takes no memory.

    Args:
        kind: "poisson": independent of each other, as those of many users are (gaps are
            exponentially distributed); "constant": at even distances.
        rate_per_s: Requests a second, in the mean.
        until_s: Where the schedule ends.

    Yields:
        Seconds from the start, below ``until_s``.
    """
    times = _constant(rate_per_s) if kind == "constant" else _poisson(rate_per_s)
    for due_s in times:
        if due_s >= until_s:
            return
        yield due_s


def _constant(rate_per_s: float) -> Iterator[float]:
    count = 0
    while True:
        yield count / rate_per_s
        count += 1


def _poisson(rate_per_s: float) -> Iterator[float]:
    generator = random.Random(_SEED)  # noqa: S311, nothing is kept secret with it
    due_s = 0.0
    while True:
        due_s += generator.expovariate(rate_per_s)
        yield due_s

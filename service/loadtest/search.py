"""Find the highest rate at which a server still does what is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from service.loadtest.measurement import Measurement

LEAST_RATE, MOST_RATE = 0.1, 100_000.0
_NEAR = 1.05  # between a rate that holds and one that does not
_MAY_BE_LEFT = 0.05  # of what was due, when the load ends, beside what is on its way anyway


@dataclass(frozen=True)
class Goal:
    """What a rate must allow.

    Attributes:
        p99_s: The most that p99 may be.
        error_share: The most that may fail.
    """

    p99_s: float
    error_share: float = 0.0

    def misses(self, measurement: Measurement) -> bool:
        """Whether a rate is too high."""
        # As many as arrive within p99 may be on their way at any time.
        on_their_way = measurement.load.rate_per_s * self.p99_s
        left = measurement.due - measurement.in_time
        return (
            measurement.latencies.percentile_s(0.99) > self.p99_s
            or measurement.error_share > self.error_share
            or left > _MAY_BE_LEFT * measurement.due + on_their_way
        )


def find_limit(
    measure: Callable[[float], Measurement], start_per_s: float, goal: Goal
) -> Measurement | None:
    """Double or halve the rate until the limit lies between two, then close in on it.

    Args:
        measure: Measures one rate.
        start_per_s: The first one.
        goal: What a rate must allow.

    Returns:
        The highest rate that was seen to hold, at most 5 % below one that was not; None where
        none did. What is known by then, if a measurement is interrupted.
    """
    best: Measurement | None = None
    too_high = math.inf
    rate = start_per_s
    while LEAST_RATE <= rate <= MOST_RATE:
        found = measure(rate)
        if found.interrupted:
            break
        if goal.misses(found):
            too_high = rate
        else:
            best = found
        if best is not None and too_high / best.load.rate_per_s <= _NEAR:
            break
        rate = _between(best.load.rate_per_s if best else 0.0, too_high)
    return best


def _between(low: float, high: float) -> float:
    if not low:
        rate = high / 2
    elif math.isinf(high):
        rate = low * 2
    else:
        rate = math.sqrt(low * high)
    return float(f"{rate:.3g}")

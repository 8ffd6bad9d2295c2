"""Count latencies in bounded memory, exactly enough for p99.9.

Bounds of the buckets grow by half a percent each, from a microsecond to about a quarter of an hour,
so a percentile is too high by half a percent at most, however many latencies there were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

_GROWTH = 1.005
_PER_LOG = 1 / math.log(_GROWTH)
_BUCKETS = 1 + math.ceil(math.log(1e9) * _PER_LOG)


@dataclass
class Histogram:
    """Latencies, as counts by size.

    Attributes:
        counts: How many were in each bucket; only buckets that have any.
        max_s: The longest.
    """

    counts: dict[int, int] = field(default_factory=dict)
    max_s: float = 0.0

    @property
    def total(self) -> int:
        """How many latencies were counted."""
        return sum(self.counts.values())

    def add(self, seconds: float) -> None:
        """Count one."""
        us = seconds * 1e6
        bucket = min(_BUCKETS, math.ceil(math.log(us) * _PER_LOG)) if us > 1 else 0
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        if seconds > self.max_s:
            self.max_s = seconds

    def percentile_s(self, share: float) -> float:
        """So long or less did this share of them take; infinite where none was counted."""
        wanted, seen = math.ceil(share * self.total), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(self.max_s, _bound_s(bucket))
        return math.inf

    def buckets(self) -> list[tuple[float, int]]:
        """Upper bounds in seconds, rising, with the counts below them."""
        return [(_bound_s(bucket), self.counts[bucket]) for bucket in sorted(self.counts)]


def _bound_s(bucket: int) -> float:
    return _GROWTH**bucket * 1e-6


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them in one."""
    result = Histogram()
    for one in histograms:
        for bucket, count in one.counts.items():
            result.counts[bucket] = result.counts.get(bucket, 0) + count
        result.max_s = max(result.max_s, one.max_s)
    return result

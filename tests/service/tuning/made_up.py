"""Measurements that nobody has taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from service.latency import Histogram
from service.tuning.trials import Candidate, Level, Trial

MIB = 2**20


def trial(images_per_s: float, p99_s: float = 0.01, rss_mib: float = 100) -> Trial:
    latencies = Histogram()
    for _ in range(100):
        latencies.add(p99_s)
    level = Level(32, images_per_s, latencies)
    return Trial((level,), round(rss_mib * MIB), round(0.8 * rss_mib * MIB), cpu_ms=1.5)


class Machine:
    """Measures by a formula, on a machine whose speed changes from trial to trial."""

    def __init__(self, formula: Callable[[Candidate], Trial], speeds: Iterable[float] = ()) -> None:
        self.formula = formula
        self.speeds = iter(speeds)
        self.tried: list[Candidate] = []

    def __call__(self, candidate: Candidate) -> Trial:
        self.tried.append(candidate)
        found = self.formula(candidate)
        speed = next(self.speeds, 1.0)
        if speed == 1.0 or found.failure:
            return found
        (level,) = found.levels
        return trial(level.images_per_s * speed, level.p99_s / speed, found.rss_bytes / MIB)

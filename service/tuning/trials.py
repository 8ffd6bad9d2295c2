"""What is tried, and what was measured of it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field

from service.latency import Histogram, merged

TUNED = ("workers", "threads", "max_batch_size", "instances")


@dataclass(frozen=True)
class Candidate:
    """Values of the settings that are tuned; see ``service.settings``."""

    workers: int = 1
    threads: int = 0
    max_batch_size: int = 0
    instances: int = 0

    def __str__(self) -> str:
        """Say what differs from the defaults."""
        values, default = asdict(self), asdict(Candidate())
        changed = [f"{name}={values[name]}" for name in TUNED if values[name] != default[name]]
        return ", ".join(changed) or "defaults"


@dataclass(frozen=True)
class Level:
    """What came of one number of connections.

    Attributes:
        connections: Each with one image under way at a time.
        images_per_s: Answered within the time.
        latencies: Of all, seen from the client.
    """

    connections: int
    images_per_s: float
    latencies: Histogram

    @property
    def p50_s(self) -> float:
        """Median latency."""
        return self.latencies.percentile_s(0.5)

    @property
    def p99_s(self) -> float:
        """Latency that one image in a hundred exceeds."""
        return self.latencies.percentile_s(0.99)


@dataclass(frozen=True)
class Trial:
    """One start of the service, and what was measured of it.

    Attributes:
        levels: By connections; the first is what limits hold for.
        rss_bytes: The most resident memory of all its processes together, under load.
        pss_bytes: The same with what they share counted once; None where that is unknown.
        cpu_ms: CPU time of an image.
        other_cpus: That something else on the machine kept busy meanwhile.
        failure: Why it is worth nothing; empty where all went well.
    """

    levels: tuple[Level, ...] = ()
    rss_bytes: int = 0
    pss_bytes: int | None = None
    cpu_ms: float = 0.0
    other_cpus: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Limits:
    """What is asked for; None: nothing."""

    p99_s: float | None = None
    memory_bytes: int | None = None

    def excess(self, p99_s: float, memory_bytes: float) -> float:
        """How far the worse of both is from its limit, as a factor: above 1 does not fit."""
        return max(
            p99_s / self.p99_s if self.p99_s else 0.0,
            memory_bytes / self.memory_bytes if self.memory_bytes else 0.0,
        )


@dataclass
class Measured:
    """A candidate with all its trials."""

    candidate: Candidate
    trials: list[Trial] = field(default_factory=list)

    @property
    def failure(self) -> str:
        """Why it is out; empty where it is not."""
        return next((trial.failure for trial in self.trials if trial.failure), "")

    @property
    def rates(self) -> list[float]:
        """Images a second of each trial."""
        return [trial.levels[0].images_per_s for trial in self.trials if trial.levels]

    @property
    def images_per_s(self) -> float:
        """Their median."""
        return statistics.median(self.rates) if self.rates else 0.0

    @property
    def levels(self) -> list[Level]:
        """All trials together, by connections, most first."""
        found: dict[int, list[Level]] = {}
        for trial in self.trials:
            for level in trial.levels:
                found.setdefault(level.connections, []).append(level)
        return [
            Level(
                connections,
                statistics.median(level.images_per_s for level in levels),
                merged(level.latencies for level in levels),
            )
            for connections, levels in sorted(found.items(), reverse=True)
        ]

    @property
    def p99s_s(self) -> list[float]:
        """Of each trial, at the number of connections that limits hold for."""
        return [trial.levels[0].p99_s for trial in self.trials if trial.levels]

    @property
    def p99_s(self) -> float:
        """Their median: a bad minute of the machine shall not decide."""
        return statistics.median(self.p99s_s) if self.p99s_s else float("inf")

    @property
    def rss_bytes(self) -> int:
        """The most of all trials."""
        return max((trial.rss_bytes for trial in self.trials), default=0)

    @property
    def pss_bytes(self) -> int | None:
        """The most of all trials; None where that is unknown."""
        found = [trial.pss_bytes for trial in self.trials if trial.pss_bytes is not None]
        return max(found, default=None)

    @property
    def cpu_ms(self) -> float:
        """Median CPU time of an image."""
        return statistics.median(trial.cpu_ms for trial in self.trials) if self.trials else 0.0

    def excess(self, limits: Limits) -> float:
        """As ``Limits.excess``; infinite for one that is out."""
        return float("inf") if self.failure else limits.excess(self.p99_s, self.rss_bytes)

    def fits(self, limits: Limits) -> bool:
        """It keeps within the limits."""
        return bool(self.trials) and self.excess(limits) <= 1

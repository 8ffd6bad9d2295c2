"""What is sent at one rate, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from service.latency import Histogram

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_MOST_REASONS = 50


@dataclass(frozen=True)
class Load:
    """One rate of requests.

    Attributes:
        rate_per_s: Requests a second, in the mean.
        arrivals: One of ``schedule.ARRIVALS``.
        seconds: So long it is measured.
        warm_up_s: Before that, at the same rate, without being counted.
        connections: That are open at once, at most.
        timeout_s: A request without an answer so long after it was due is given up.
    """

    rate_per_s: float
    arrivals: str = "poisson"
    seconds: float = 10.0
    warm_up_s: float = 1.0
    connections: int = 256
    timeout_s: float = 10.0


@dataclass
class Measurement:
    """What came of a load. Requests of the warm-up are in none of the numbers.

    Attributes:
        load: What was sent.
        due: Requests that were due.
        answered: Of those, with status 200, whenever it came.
        in_time: Of those, while the load lasted.
        seconds: So long it lasted; less than was wanted if it was interrupted.
        latencies: From the time at which a request was due until its answer with status 200 was
            complete, or until it was given up without any.
        service_times: Of answers with status 200, from the time at which the request was sent.
        lags: By how much requests were sent late although a connection was free.
        failures: Requests without an answer of status 200, by reason.
        examples: What the server said, by reason.
        client_cpus: CPUs that the load generator was busy on.
        interrupted: It was ended before its time.
    """

    load: Load
    due: int = 0
    answered: int = 0
    in_time: int = 0
    seconds: float = 0.0
    latencies: Histogram = field(default_factory=Histogram)
    service_times: Histogram = field(default_factory=Histogram)
    lags: Histogram = field(default_factory=Histogram)
    failures: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    client_cpus: float = 0.0
    interrupted: bool = False

    def fail(self, reason: str, example: str = "") -> None:
        """Count a request without a good answer."""
        if reason not in self.failures and len(self.failures) >= _MOST_REASONS:
            reason, example = "other", ""
        self.failures[reason] = self.failures.get(reason, 0) + 1
        if example:
            self.examples.setdefault(reason, example)

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return sum(self.failures.values())

    @property
    def error_share(self) -> float:
        """Of the requests that have ended, how many failed."""
        return self.failed / ended if (ended := self.failed + self.answered) else 0.0

    @property
    def achieved_per_s(self) -> float:
        """Good answers a second, while the load lasted."""
        return self.in_time / self.seconds if self.seconds else 0.0

    @property
    def achieved_share(self) -> float:
        """Of the requests that were due, how many had their answer while the load lasted."""
        return self.in_time / self.due if self.due else 0.0

    def percentiles_s(self) -> dict[str, float]:
        """Latencies by name, in rising order, with the longest; infinite without any."""
        found = {name: self.latencies.percentile_s(share) for name, share in PERCENTILES.items()}
        return found | {"max": self.latencies.max_s if self.latencies.total else math.inf}

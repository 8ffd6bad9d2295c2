"""Say what was measured: as a table, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from service.latency import Histogram
from service.loadtest.gates import Gate
from service.loadtest.measurement import PERCENTILES, Measurement
from service.loadtest.search import Goal
from service.tuning.quantities import milliseconds, rate

_HEAD = ("RATE", "DUE", "ANSWERED/S", "P50", "P90", "P99", "P99.9", "MAX", "P99 SENT", "ERRORS")
_LATENCIES = (
    "Latency counts from the time at which a request was due, so that a server that stands still is"
    " seen in all requests of that time, sent or not. P99 SENT counts from when they were sent."
)
_BUSY, _LATE_S = 0.9, 0.001
_BEHIND = 0.95


@dataclass(frozen=True)
class Report:
    """A load test.

    Attributes:
        images_per_request: In each request.
        measurements: In the order in which they were made.
        gates: Conditions under which it fails.
        goal: What a limit was looked for; None: no limit was looked for.
        limit: The highest rate that reached the goal.
        interrupted: It was ended before its time.
        title: One line.
        subtitle: One line.
        about: What was measured and how, for JSON.
    """

    images_per_request: int
    measurements: Sequence[Measurement]
    gates: Sequence[Gate]
    goal: Goal | None = None
    limit: Measurement | None = None
    interrupted: bool = False
    title: str = ""
    subtitle: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """What makes it fail, one line each."""
        if self.goal is not None and self.limit is None:
            return [f"no rate was found at which p99 keeps within {milliseconds(self.goal.p99_s)}"]
        held_to_it = self.measurements if self.goal is None else [self.limit]
        return [
            f"{rate(one.load.rate_per_s)}/s: {reason}"
            for one in held_to_it
            if one is not None
            for reason in self._reasons(one)
        ]

    def _reasons(self, measurement: Measurement) -> list[str]:
        if not measurement.due:  # no condition is held against nothing, and none was kept
            return [] if measurement.interrupted else ["no request was due; raise --duration"]
        return [gate.describe(measurement) for gate in self.gates if gate.fails(measurement)]


def describe(measurement: Measurement) -> str:
    """One rate, one line."""
    found = measurement.percentiles_s()
    return (
        f"{rate(measurement.load.rate_per_s)}/s: {rate(measurement.achieved_per_s)} answered/s,"
        f" p50 {milliseconds(found['p50'])}, p99 {milliseconds(found['p99'])},"
        f" {measurement.failed} errors"
    )


def lines(report: Report) -> list[str]:
    """The table, and what else people should know."""
    rows = [_HEAD, *map(_cells, report.measurements)]
    if (images := report.images_per_request) > 1:
        rates = [f"{rate(one.achieved_per_s * images)}" for one in report.measurements]
        rows = [(*row, cell) for row, cell in zip(rows, ["IMAGES/S", *rates], strict=True)]
    found = [*_aligned(rows), "", _LATENCIES]
    for one in report.measurements:
        found += [f"{rate(one.load.rate_per_s)}/s: {note}" for note in _notes(one)]
    if report.goal is not None:
        found.append(_limit(report.goal, report.limit))
    found += [f"failed: {text}" for text in report.failures()]
    return found


def _limit(goal: Goal, limit: Measurement | None) -> str:
    wanted = f"p99 within {milliseconds(goal.p99_s)}"
    if limit is None:
        return f"limit: none found with {wanted}"
    most = rate(limit.load.rate_per_s)
    return f"limit: {most} requests/s is the most that was seen with {wanted}"


def _cells(measurement: Measurement) -> tuple[str, ...]:
    return (
        f"{rate(measurement.load.rate_per_s)}/s",
        str(measurement.due),
        rate(measurement.achieved_per_s),
        *map(milliseconds, measurement.percentiles_s().values()),
        milliseconds(measurement.service_times.percentile_s(0.99)),
        f"{measurement.failed} ({measurement.error_share:.1%})" if measurement.failed else "0",
    )


def _notes(measurement: Measurement) -> list[str]:
    load = measurement.load
    found = [f"interrupted after {measurement.seconds:.1f} s"] if measurement.interrupted else []
    for reason, count in sorted(measurement.failures.items(), key=lambda item: -item[1]):
        example = measurement.examples.get(reason, "")
        found.append(f"{count} x {reason}" + (f": {example}" if example else ""))
    if measurement.due and measurement.achieved_share < _BEHIND and not measurement.interrupted:
        found.append(
            f"only {measurement.achieved_share:.0%} were answered while the load lasted,"
            f" {load.seconds:g} s"
        )
    if is_late(measurement):
        found.append(
            "the load generator itself was late (p99 of its lag"
            f" {milliseconds(measurement.lags.percentile_s(0.99))},"
            f" {measurement.client_cpus:.0%} of a CPU); latencies are partly its own"
        )
    counted = measurement.latencies.total
    largest = [name for name, share in PERCENTILES.items() if counted * (1 - share) < 1]
    if counted and largest:
        found.append(f"{' and '.join(largest)} of {counted} requests is the largest of all")
    return found


def is_late(measurement: Measurement) -> bool:
    """The load generator could not keep its own schedule."""
    lag_s = measurement.lags.percentile_s(0.99) if measurement.lags.total else 0.0
    allowed_s = max(_LATE_S, measurement.latencies.percentile_s(0.5) / 10)
    return measurement.client_cpus > _BUSY or lag_s > allowed_s


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def as_json(report: Report) -> dict[str, Any]:
    """All of it, for programs; durations in milliseconds, null where nothing was answered."""
    failures = report.failures()
    return {
        **report.about,
        "interrupted": report.interrupted,
        "passed": not failures,
        "failures": failures,
        "gates": [gate.text for gate in report.gates],
        "limit": _limit_as_json(report),
        "rates": [_as_json(one, report.images_per_request) for one in report.measurements],
    }


def _limit_as_json(report: Report) -> dict[str, Any] | None:
    if report.goal is None:
        return None
    found = report.limit.load.rate_per_s if report.limit else None
    return {
        "p99_ms": report.goal.p99_s * 1e3,
        "error_share": report.goal.error_share,
        "requests_per_s": found,
    }


def _as_json(measurement: Measurement, images_per_request: int) -> dict[str, Any]:
    return {
        "load": asdict(measurement.load),
        "due": measurement.due,
        "answered": measurement.answered,
        "answered_in_time": measurement.in_time,
        "seconds": measurement.seconds,
        "achieved_per_s": measurement.achieved_per_s,
        "achieved_share": measurement.achieved_share,
        "images_per_s": measurement.achieved_per_s * images_per_request,
        "latency_ms": {name: _ms(value) for name, value in measurement.percentiles_s().items()},
        "latency_histogram": _buckets(measurement.latencies),
        "service_time_ms": _percentiles_ms(measurement.service_times),
        "lag_ms": _percentiles_ms(measurement.lags),
        "late": is_late(measurement),
        "client_cpus": measurement.client_cpus,
        "failed": measurement.failed,
        "error_share": measurement.error_share,
        "failures": [
            {"reason": reason, "count": count, "example": measurement.examples.get(reason)}
            for reason, count in measurement.failures.items()
        ],
        "interrupted": measurement.interrupted,
    }


def _percentiles_ms(histogram: Histogram) -> dict[str, float | None]:
    return {name: _ms(histogram.percentile_s(share)) for name, share in PERCENTILES.items()}


def _ms(seconds: float) -> float | None:
    return seconds * 1e3 if math.isfinite(seconds) else None


def _buckets(histogram: Histogram) -> list[dict[str, float]]:
    """Counts by the upper bound of their bucket."""
    return [{"up_to_ms": bound_s * 1e3, "count": count} for bound_s, count in histogram.buckets()]

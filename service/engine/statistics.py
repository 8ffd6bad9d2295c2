"""What has become of requests so far, a model version: sums over the series of ``metrics``.

The same numbers as ``/metrics`` has, of all workers together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.samples import Sample

_PREFIX = "adaresnet_"
_DURATIONS = {
    "decode_seconds": "decode",
    "queue_wait_seconds": "queue",
    "run_seconds": "run",
    "encode_seconds": "encode",
}
_PARTS = {"_count": "count", "_sum": "seconds"}


@dataclass
class Duration:
    """How often something was done, and the time of all of it together."""

    count: int = 0
    seconds: float = 0.0


@dataclass
class VersionStatistics:
    """Sums of one model version since the service was started.

    Attributes:
        images: In answers.
        success: Requests that were answered.
        fail: Requests that were not, those of clients that left included.
        decode: As ``adaresnet_decode_seconds``, and so on.
        queue: Of batches.
        run: Of batches.
        encode: Of answers.
        batches: Runs, by the number of images in them.
        last_inference_s: When a batch last ran, seconds since 1970; 0: never.
    """

    images: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    decode: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    run: Duration = field(default_factory=Duration)
    encode: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=dict)
    last_inference_s: float = 0.0


Statistics = dict[tuple[str, int], VersionStatistics]


def sum_up(samples: Iterable[Sample]) -> Statistics:
    """Sums of every model version that has series."""
    statistics: Statistics = {}
    for sample in samples:
        labels = sample.labels
        if "model" not in labels or not labels.get("version"):
            continue  # not of a model version
        key = labels["model"], int(labels["version"])
        _add(statistics.setdefault(key, VersionStatistics()), sample)
    return statistics


def _add(to: VersionStatistics, sample: Sample) -> None:
    labels, value = sample.labels, sample.value
    name = sample.name.removeprefix(_PREFIX)
    if name == "images_total" and labels["outcome"] == "answered":
        to.images += int(value)
    elif name == "last_inference_timestamp_seconds":
        to.last_inference_s = value
    for suffix, part in _PARTS.items():
        if not name.endswith(suffix):
            continue
        of = name.removesuffix(suffix)
        if of == "request_duration_seconds":
            _increase(to.success if labels["status"] == "200" else to.fail, part, value)
        elif of == "batch_run_seconds":
            size = int(labels["batch_size"])
            _increase(to.batches.setdefault(size, Duration()), part, value)
        elif of in _DURATIONS:
            _increase(getattr(to, _DURATIONS[of]), part, value)


def _increase(duration: Duration, part: str, value: float) -> None:
    if part == "count":
        duration.count += int(value)
    else:
        duration.seconds += value

"""Which classes a model predicts, and how sure it is: what shows that its input has changed.

Counted some batches at a time: a batch only leaves its scores here, and what is done to thousands
of them together costs an image next to nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram

OTHER, NOT_A_NUMBER = "(other)", "(not a number)"
_LABELS = ("model", "version")
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)
# Counted at the latest when there is so much: 256 KiB of scores, or scores of so many batches.
_MAX_VALUES, _MAX_BATCHES = 2**16, 256
_MAX_NAME = 100


class BulkHistogram(Histogram):
    """A histogram that takes many observations in one step."""

    def observe_all(self, values: NDArray[np.floating]) -> None:
        """Observe values [N]."""
        found = np.searchsorted(np.array(self._upper_bounds), values)
        self._sum.inc(float(values.sum()))
        for bucket, count in zip(*np.unique(found, return_counts=True), strict=True):
            self._buckets[bucket].inc(int(count))


class PredictionMetrics:
    """The series of all model versions."""

    def __init__(self, registry: CollectorRegistry, max_classes: int) -> None:
        """Make them; ``max_classes`` of a version have a series of their own."""
        self.max_classes = max_classes
        self.classes = Counter(
            "adaresnet_predictions_total",
            "Images by their most probable class",
            (*_LABELS, "class"),
            registry=registry,
        )
        self.confidence = BulkHistogram(
            "adaresnet_confidence",
            "Probability of the most probable class of an image",
            _LABELS,
            buckets=_CONFIDENCES,
            registry=registry,
        )


class Predictions:
    """What one model version predicts. Safe to call from several threads."""

    def __init__(self, metrics: PredictionMetrics, model: str, version: str) -> None:
        """Count nothing yet; classes are numbers until they have names."""
        self._metrics = metrics
        self._of = (model, version)
        self._observe = metrics.confidence.labels(*self._of).observe_all
        self._names: Sequence[str] = ()
        self._counters: dict[int, Callable[[float], None]] = {}
        self._kept: deque[NDArray[np.float32]] = deque()
        self._values = 0
        self._lock = threading.Lock()

    def name(self, classes: Sequence[str]) -> None:
        """Count classes by these names from now on."""
        self.flush()
        with self._lock:
            self._names = classes
            self._counters = {}

    def add(self, probabilities: NDArray[np.float32]) -> None:
        """A batch has run: float32 [N, C]."""
        # A copy: what ONNX Runtime gives lies in the session's memory, and keeps all of it.
        self._kept.append(probabilities.copy())
        self._values += probabilities.size
        if self._values >= _MAX_VALUES or len(self._kept) >= _MAX_BATCHES:
            self.flush()

    def flush(self) -> None:
        """Count what was left here."""
        with self._lock:
            self._values = 0
            kept = [self._kept.popleft() for _ in range(len(self._kept))]
            for classes in {one.shape[1] for one in kept}:  # one, unless a file has just changed
                self._count(np.concatenate([one for one in kept if one.shape[1] == classes]))

    def _count(self, probabilities: NDArray[np.float32]) -> None:
        best = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(best)), best]
        known = np.isfinite(confidence)
        if not known.all():
            self._series(NOT_A_NUMBER)(int((~known).sum()))
            best, confidence = best[known], confidence[known]
        self._observe(confidence)
        for index, count in zip(*np.unique(best, return_counts=True), strict=True):
            counter = self._counters.get(index)
            if counter is None:
                counter = self._counters[index] = self._series(self._name_of(int(index)))
            counter(int(count))

    def _series(self, name: str) -> Callable[[float], None]:
        return self._metrics.classes.labels(*self._of, name).inc

    def _name_of(self, index: int) -> str:
        """The name of a class, by its number: all workers must give it the same."""
        if index >= self._metrics.max_classes:
            return OTHER
        return self._names[index][:_MAX_NAME] if index < len(self._names) else str(index)

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.engine.predictions import NOT_A_NUMBER, OTHER, PredictionMetrics, Predictions


def counted(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels["class"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "adaresnet_predictions_total"
    }


def confidences(registry: CollectorRegistry) -> dict[str, float]:
    """Cumulative counts by upper bound, and the sum."""
    return {
        sample.labels.get("le", sample.name): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name in ("adaresnet_confidence_bucket", "adaresnet_confidence_sum")
    }


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def scores(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_classes_and_confidences_of_every_image(registry):
    predictions = Predictions(PredictionMetrics(registry, 100), "m", "1")
    predictions.name(["cat", "dog", "x" * 300])
    predictions.add(scores((0.9, 0.1, 0), (0.25, 0.75, 0)))
    predictions.add(scores((0.5, 0.3, 0.2), (0, 0, 1)))
    assert counted(registry) == {}  # not before there is something to read
    predictions.flush()
    assert counted(registry) == {"cat": 2, "dog": 1, "x" * 100: 1}
    found = confidences(registry)
    assert (found["0.4"], found["0.5"], found["0.8"], found["0.9"]) == (0, 1, 2, 3)
    assert (found["1.0"], found["+Inf"]) == (4, 4)
    assert found["adaresnet_confidence_sum"] == pytest.approx(3.15)


def test_labels_are_bounded(registry):
    predictions = Predictions(PredictionMetrics(registry, 10), "m", "1")
    predictions.name([f"c{index}" for index in range(1000)])
    predictions.add(np.eye(1000, dtype=np.float32))
    predictions.flush()
    assert counted(registry) == {**{f"c{index}": 1 for index in range(10)}, OTHER: 990}


def test_scores_that_are_no_numbers_spoil_nothing(registry):
    predictions = Predictions(PredictionMetrics(registry, 10), "m", "1")
    predictions.add(scores((0.2, 0.8), (np.nan, 0.1), (np.nan, np.nan)))
    predictions.flush()
    assert counted(registry) == {"1": 1, NOT_A_NUMBER: 2}
    assert confidences(registry)["adaresnet_confidence_sum"] == pytest.approx(0.8)


def test_a_file_with_other_classes_is_counted_by_its_own(registry):
    predictions = Predictions(PredictionMetrics(registry, 10), "m", "1")
    predictions.name(["cat", "dog"])
    predictions.add(scores((0.2, 0.8)))
    predictions.name(["ant", "bee", "cow"])
    predictions.add(scores((0.2, 0.7, 0.1)))
    predictions.add(scores((0.2, 0.8)))  # a batch of the file before was still under way
    predictions.flush()
    assert counted(registry) == {"dog": 1, "bee": 2}


def test_what_is_kept_is_bounded(registry):
    predictions = Predictions(PredictionMetrics(registry, 10), "m", "1")
    for _ in range(300):
        predictions.add(scores((1, 0)))
    assert counted(registry)["0"] == 256
    predictions.add(np.ones((64, 1024), np.float32))
    assert sum(counted(registry).values()) == 364


def test_no_image_is_lost_or_counted_twice_between_threads(registry):
    predictions = Predictions(PredictionMetrics(registry, 10), "m", "1")
    end = threading.Event()

    def add() -> None:
        for _ in range(2000):
            predictions.add(scores((0, 1)))

    def read() -> None:
        while not end.is_set():
            predictions.flush()

    adding = [threading.Thread(target=add) for _ in range(3)]
    reading = threading.Thread(target=read)
    for thread in (*adding, reading):
        thread.start()
    for thread in adding:
        thread.join()
    end.set()
    reading.join()
    predictions.flush()
    assert counted(registry) == {"1": 6000}


def test_nothing_of_a_session_is_kept(registry):
    predictions = Predictions(PredictionMetrics(registry, 10), "m", "1")
    answer = scores((0.25, 0.75))  # ONNX Runtime's arrays keep the memory of their session
    left = weakref.ref(answer)
    predictions.add(answer)
    del answer
    assert left() is None
    predictions.flush()
    assert counted(registry) == {"1": 1}

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from training.report.errors import ReportError
from training.report.metrics import BINS, calibration_bins, count_confusion, score

NAMES = ("cat", "dog", "eel")


def logits_of(rows: list[list[float]]) -> NDArray[np.float32]:
    """Logits whose softmax is exactly these probabilities."""
    return np.array([[math.log(value) for value in row] for row in rows], np.float32)


def test_every_number_by_hand():
    # Confidences 0.8, 0.5, 0.6, 0.9; right, right, wrong, wrong.
    logits = logits_of([[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.6, 0.3, 0.1], [0.05, 0.9, 0.05]])
    found = score(logits, np.array([0, 1, 1, 2]), NAMES)
    assert found.images == 4
    assert found.top1 == 0.5
    assert found.top5 is None
    expected_loss = -(math.log(0.8) + math.log(0.5) + math.log(0.3) + math.log(0.05)) / 4
    assert found.log_loss == pytest.approx(expected_loss, rel=1e-6)
    # Each answer has a bin of its own: |0.8 - 1|, |0.5 - 1|, |0.6 - 0|, |0.9 - 0|.
    assert found.expected_calibration_error == pytest.approx((0.2 + 0.5 + 0.6 + 0.9) / 4, rel=1e-6)
    assert found.overconfidence == pytest.approx(0.7 - 0.5, rel=1e-6)
    assert found.confusion == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    cat, dog, eel = found.classes
    assert (cat.support, cat.predicted, cat.precision, cat.recall) == (1, 2, 0.5, 1.0)
    assert cat.f1 == pytest.approx(2 / 3)
    assert (dog.precision, dog.recall, dog.f1) == (0.5, 0.5, 0.5)
    assert (eel.support, eel.precision, eel.recall, eel.f1) == (1, None, 0.0, 0.0)
    pairs = [(p.true, p.predicted, p.images, p.share) for p in found.confused]
    assert pairs == [("dog", "cat", 1, 0.5), ("eel", "dog", 1, 1.0)]


def test_a_class_that_is_neither_there_nor_predicted_has_no_scores():
    found = score(logits_of([[0.8, 0.1, 0.1]]), np.array([0]), NAMES)
    assert found.classes[2].f1 is None
    assert found.classes[2].recall is None
    assert found.confused == []


def test_bins_are_closed_on_the_right_and_weighted_by_images():
    edge = 3 / BINS
    bins = calibration_bins(np.array([edge, edge + 1e-9, 1.0, 1.0]), np.array([True] * 3 + [False]))
    assert [b.images for b in bins] == [0, 0, 1, 1] + [0] * 10 + [2]
    assert bins[-1].accuracy == 0.5
    assert bins[-1].confidence == 1.0
    assert bins[0].confidence is None
    assert bins[2].high == pytest.approx(edge)


def test_top5_counts_ties_as_argmax_does():
    logits = np.zeros((7, 7), np.float32)
    found = score(logits, np.arange(7), tuple("abcdefg"))
    assert found.top1 == pytest.approx(1 / 7)
    assert found.top5 == pytest.approx(5 / 7)
    better = logits.copy()
    better[6, 6] = 1
    assert score(better, np.arange(7), tuple("abcdefg")).top5 == pytest.approx(6 / 7)


def test_scores_do_not_depend_on_how_they_are_counted(rng):
    labels = rng.integers(0, 6, 500)
    logits = rng.normal(size=(500, 6)).astype(np.float32)
    found = score(logits, labels, tuple("abcdef"))
    slow = np.zeros((6, 6), np.int64)
    for label, row in zip(labels, logits, strict=True):
        slow[label, row.argmax()] += 1
    assert found.confusion == slow.tolist()
    assert sum(b.images for b in found.bins) == 500
    assert found.top1 == slow.trace() / 500
    ranks = [
        (-row).argsort().tolist().index(label) for label, row in zip(labels, logits, strict=True)
    ]
    assert found.top5 == np.mean(np.array(ranks) < 5)


def test_a_sure_mistake_has_a_finite_loss():
    found = score(np.array([[500.0, -500.0]], np.float32), np.array([1]), ("a", "b"))
    assert found.log_loss == 1000.0
    assert found.overconfidence == 1.0


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ReportError, match="not finite on 1 images"):
        score(np.array([[1.0, np.nan], [0, 1]], np.float32), np.array([0, 1]), ("a", "b"))


def test_confusion_has_true_classes_in_rows():
    assert count_confusion(np.array([0, 0]), np.array([1, 1]), 2).tolist() == [[0, 2], [0, 0]]

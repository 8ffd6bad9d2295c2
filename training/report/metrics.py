"""Numbers of a classifier from its logits: right answers, log loss, calibration, confusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.report.errors import ReportError

BINS = 15  # as Guo et al. 2017 report it
CONFUSED_PAIRS = 5
_TOP = 5


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ClassScores(_Record):
    """One class; a score is None where it divides by zero.

    ``precision`` has no value for a class that was never predicted, ``recall`` none for a class
    without images, ``f1`` none for a class that is neither there nor predicted.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


class ConfusedPair(_Record):
    """Images of one class that were taken for another; ``share`` is of the true class's images."""

    true: str
    predicted: str
    images: int
    share: float


class CalibrationBin(_Record):
    """Images whose confidence is in ``(low, high]``; means are None where there are none."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


class Scores(_Record):
    """What logits are worth.

    Attributes:
        images: Images that were scored.
        top1: Share whose largest logit is the label's.
        top5: Share whose label is among the five largest; None for five classes or fewer.
        log_loss: Mean of -log of the label's probability, nats.
        expected_calibration_error: Mean gap between confidence and accuracy a bin, weighted by the
            bin's images, over ``BINS`` bins of equal width.
        overconfidence: Mean confidence minus accuracy; below 0 the network doubts itself too much.
        classes: One row a class.
        confused: The most frequent mistakes, at most ``CONFUSED_PAIRS``.
        confusion: Images by true class (rows) and predicted class (columns).
        bins: The reliability diagram.
    """

    images: int
    top1: float
    top5: float | None
    log_loss: float
    expected_calibration_error: float
    overconfidence: float
    classes: list[ClassScores]
    confused: list[ConfusedPair]
    confusion: list[list[int]]
    bins: list[CalibrationBin]


@dataclass(frozen=True)
class _Answers:
    """Confidence float64 [N], and whether each answer was right, bool [N]."""

    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]


def score(
    logits: NDArray[np.float32], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> Scores:
    """Score a split.

    Args:
        logits: float [N, C], N >= 1.
        labels: int64 [N], in [0, C).
        class_names: One name a class.

    Raises:
        ReportError: Logits are not finite.

    Source: calibration, Guo et al. 2017 (arXiv 1706.04599) section 2, equations 2 and 3.
    """
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise ReportError(f"the network gives values that are not finite on {bad:,} images")
    log_probabilities = _log_softmax(logits)
    predicted = logits.argmax(axis=1)
    answers = _Answers(np.exp(log_probabilities.max(axis=1)), predicted == labels)
    confusion = count_confusion(labels, predicted, len(class_names))
    bins = calibration_bins(answers.confidence, answers.right)
    return Scores(
        images=len(labels),
        top1=float(answers.right.mean()),
        top5=_top_share(logits, labels) if len(class_names) > _TOP else None,
        log_loss=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        expected_calibration_error=_calibration_error(bins),
        overconfidence=float(answers.confidence.mean() - answers.right.mean()),
        classes=_class_scores(confusion, class_names),
        confused=_confused_pairs(confusion, class_names),
        confusion=confusion.tolist(),
        bins=bins,
    )


def count_confusion(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns), int64 [C, C]."""
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def calibration_bins(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> list[CalibrationBin]:
    """Sort answers into ``BINS`` bins ``((m - 1) / BINS, m / BINS]`` by confidence in (0, 1]."""
    index = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    found = []
    for position in range(BINS):
        inside = index == position
        count = int(inside.sum())
        found.append(
            CalibrationBin(
                low=position / BINS,
                high=(position + 1) / BINS,
                images=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    return found


def _calibration_error(bins: list[CalibrationBin]) -> float:
    total = sum(b.images for b in bins)
    gaps = [
        b.images * abs(b.confidence - b.accuracy)
        for b in bins
        if b.confidence is not None and b.accuracy is not None
    ]
    return sum(gaps) / total


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    # In float64: a float32 softmax rounds a sure answer to probability 1, so that a wrong sure
    # answer would cost an infinite log loss.
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def _top_share(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    own = logits[np.arange(len(labels)), labels][:, None]
    # Of equal logits the first wins, as it does in argmax: a constant network must not score 100 %.
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    above = (logits > own).sum(axis=1) + ((logits == own) & earlier).sum(axis=1)
    return float((above < _TOP).mean())


def _class_scores(confusion: NDArray[np.int64], class_names: tuple[str, ...]) -> list[ClassScores]:
    found = []
    for index, name in enumerate(class_names):
        hits = int(confusion[index, index])
        support, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
        found.append(
            ClassScores(
                name=name,
                support=support,
                predicted=predicted,
                precision=_ratio(hits, predicted),
                recall=_ratio(hits, support),
                f1=_ratio(2 * hits, support + predicted),
            )
        )
    return found


def _confused_pairs(
    confusion: NDArray[np.int64], class_names: tuple[str, ...]
) -> list[ConfusedPair]:
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSED_PAIRS]
    found = []
    for position in order.tolist():
        true, predicted = divmod(position, len(class_names))
        images = int(mistakes[true, predicted])
        if images:
            found.append(
                ConfusedPair(
                    true=class_names[true],
                    predicted=class_names[predicted],
                    images=images,
                    share=images / int(confusion[true].sum()),
                )
            )
    return found


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None

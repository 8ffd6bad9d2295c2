"""The k most probable classes of each image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Up to so many, sorting Python's floats is faster than three calls of numpy.
_FEW_CLASSES = 64

# Class indices and probabilities of one image after the other.
Ranked = Iterable[tuple[Sequence[int], Sequence[np.float32]]]


@dataclass(frozen=True)
class Ranking:
    """The best classes, most probable first.

    Attributes:
        class_ids: int32 [N, K].
        probabilities: float32 [N, K].
    """

    class_ids: NDArray[np.int32]
    probabilities: NDArray[np.float32]

    def __iter__(self) -> Iterator[tuple[list[int], Sequence[np.float32]]]:
        """Class indices and probabilities of one image after the other."""
        # Not all at once: as Python's numbers they take many times the memory.
        for class_ids, probabilities in zip(self.class_ids, self.probabilities, strict=True):
            yield class_ids.tolist(), list(probabilities)


def rank(probabilities: NDArray[np.float32], k: int) -> Ranking:
    """Rank classes by probability; equal ones by lower index.

    Args:
        probabilities: float32 [N, C].
        k: How many to keep; more than C keeps all.
    """
    # A stable sort of the negated values puts the lower index first among equals.
    class_ids = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return Ranking(class_ids.astype(np.int32), np.take_along_axis(probabilities, class_ids, axis=1))


def rank_finite(probabilities: NDArray[np.float32], k: int) -> tuple[Ranking, list[int]]:
    """Rank the images whose probabilities are all finite.

    Args:
        probabilities: float32 [N, C].
        k: How many to keep; more than C keeps all.

    Returns:
        The ranking of those images, in order, and the rows of the others: the first class of what
        is not a number would be no answer.
    """
    finite = np.isfinite(probabilities)
    if finite.all():
        return rank(probabilities, k), []
    good = finite.all(axis=1)
    return rank(probabilities[good], k), np.flatnonzero(~good).tolist()


def rank_one(probabilities: NDArray[np.float32], k: int) -> Ranked | None:
    """The same for a single image, float32 [1, C], without numpy's cost for a small array.

    Returns:
        None where its probabilities are not all finite.
    """
    classes = probabilities.shape[1]
    if classes > _FEW_CLASSES:
        ranking, others = rank_finite(probabilities, k)
        return None if others else ranking
    row = probabilities[0]
    values = row.tolist()
    if not math.isfinite(sum(values)):  # of float32 in double precision: it can't overflow
        return None
    # This sort is stable too, in reverse as well.
    best = sorted(range(classes), key=values.__getitem__, reverse=True)[:k]
    return [(best, [row[class_id] for class_id in best])]


def join(rankings: Sequence[Ranking]) -> Ranking:
    """One ranking of the images of several, in their order."""
    if len(rankings) == 1:
        return rankings[0]
    return Ranking(
        np.concatenate([ranking.class_ids for ranking in rankings]),
        np.concatenate([ranking.probabilities for ranking in rankings]),
    )

"""The k most probable classes of each image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranking:
    """The best classes, most probable first.

    Attributes:
        class_ids: int64 [N, K].
        probabilities: float32 [N, K].
    """

    class_ids: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def rank(probabilities: NDArray[np.float32], k: int) -> Ranking:
    """Rank classes by probability; equal ones by lower index.

    Args:
        probabilities: float32 [N, C].
        k: How many to keep; more than C keeps all.
    """
    # A stable sort of the negated values puts the lower index first among equals.
    class_ids = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return Ranking(class_ids, np.take_along_axis(probabilities, class_ids, axis=1))

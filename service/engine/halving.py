"""Run a batch in halves where there is no memory for it as a whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from service.engine.errors import OutOfMemoryError
from service.engine.images import Pixels
from service.engine.session import Prediction


def run_or_halve(
    run: Callable[[Pixels], Prediction], images: Pixels, on_split: Callable[[], None]
) -> Prediction:
    """Run images together; where memory runs out, in halves, down to single ones.

    Memory of a GPU is shared with whatever else runs there, so that a size that went through when
    the model was loaded may not do so later.

    Args:
        run: Runs uint8 [N, H, W, 3].
        images: uint8 [N, H, W, 3].
        on_split: Called for every batch that was cut in two.

    Raises:
        OutOfMemoryError: There is none for a single image either.
        InferenceError: The network failed otherwise.
    """
    try:
        return run(images)
    except OutOfMemoryError:
        if len(images) == 1:
            raise
    on_split()
    half = len(images) // 2
    parts = [run_or_halve(run, part, on_split) for part in (images[:half], images[half:])]
    return Prediction(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )

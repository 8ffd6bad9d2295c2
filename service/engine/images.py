"""The forms in which the images of a request reach the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.errors import ImageError

# Whole image files; an error stands in the place of one that is known to be bad.
EncodedImages = Sequence[bytes | ImageError]
# RGB pixels, uint8 [N, H, W, 3], of any size.
Pixels = NDArray[np.uint8]
# Files among images whose pixels, uint8 [H, W, 3], are there already.
MixedImages = Sequence[bytes | ImageError | Pixels]
Chunk = MixedImages | Pixels


@dataclass(frozen=True)
class ImageStream:
    """Images of a request that come in bit by bit, so that never all of them are in memory.

    Attributes:
        count: How many will come; None where only the end will tell.
        chunks: They, in order, some at a time; raises InputError where the body turns out wrong.
    """

    count: int | None
    chunks: AsyncIterator[Chunk]


Images = Chunk | ImageStream

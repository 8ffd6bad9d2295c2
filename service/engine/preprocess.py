"""Plain RGB pixels to the tensor that a foreign graph takes.

Our own graphs do this inside. There are 256 pixel values, so each channel has a table of what they
become, computed in float64 and rounded once: exact, and one look-up a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.model_config import Color, Datatype, Layout

_SOURCE_CHANNELS: dict[Color, tuple[int, ...]] = {"rgb": (0, 1, 2), "bgr": (2, 1, 0)}
# ITU-R 601 luma in 16-bit fixed point, rounded: the grey that Pillow makes of a picture.
_LUMA, _HALF, _LUMA_BITS = (19595, 38470, 7471), 0x8000, 16


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of a pixel.

    Attributes:
        layout: Where the channels stand in the tensor.
        color: Which they are.
        table: Value of each channel for each pixel value, [C, 256], of the tensor's datatype.
    """

    layout: Layout
    color: Color
    table: NDArray[np.generic]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Make the tensor.

        Args:
            images: RGB pixels, uint8 [N, H, W, 3].

        Returns:
            [N, C, H, W] or [N, H, W, C] of the table's datatype.
        """
        count, height, width, _ = images.shape
        channels = len(self.table)
        # [N, H, W, C] seen as [N, C, H, W], so that one loop fills both.
        if self.layout == "NCHW":
            tensor = np.empty((count, channels, height, width), self.table.dtype)
            planes = tensor
        else:
            tensor = np.empty((count, height, width, channels), self.table.dtype)
            planes = np.moveaxis(tensor, -1, 1)
        if self.color == "grey":
            planes[:, 0] = self.table[0][_luma(images)]
            return tensor
        for channel, source in enumerate(_SOURCE_CHANNELS[self.color]):
            planes[:, channel] = self.table[channel][images[..., source]]
        return tensor


def pixel_table(
    datatype: Datatype, pixel_max: float, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.generic]:
    """``(pixel / 255 * pixel_max - mean) / std`` for every pixel value, [C, 256].

    For uint8 the values must come out whole: pixel_max 255, mean 0, std 1.
    """
    pixels = np.arange(256, dtype=np.float64) * pixel_max / 255
    values = (pixels - np.array(mean)[:, None]) / np.array(std)[:, None]
    table: NDArray[np.generic] = values.astype(datatype)
    return table


def _luma(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    total = np.full(images.shape[:3], _HALF, np.uint32)
    for channel, weight in enumerate(_LUMA):
        total += images[..., channel].astype(np.uint32) * np.uint32(weight)
    return (total >> _LUMA_BITS).astype(np.uint8)

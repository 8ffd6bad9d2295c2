"""PPM and PGM files with another maximum than 255, which Pillow reads value by value in Python."""

from __future__ import annotations

import numpy as np
from PIL import Image

_DECODER = "ppm"  # what Pillow calls it


def is_scaled(image: Image.Image) -> bool:
    """Whether an open image is such a file."""
    tiles = getattr(image, "tile", None) or [("",)]
    return bool(tiles[0][0] == _DECODER)


def decode_scaled(image: Image.Image, data: bytes | memoryview) -> Image.Image:
    """Decode such a file, to the same pixels as Pillow does and some hundred times as fast.

    Args:
        image: As Pillow has opened it.
        data: All of the file.

    Returns:
        8-bit grey or RGB.

    Raises:
        ValueError: Pixels are missing.
    """
    _, _, offset, (_, maximum) = image.tile[0]  # type: ignore[attr-defined]
    bands = len(image.getbands())
    shape = (image.height, image.width, bands)[: 3 if bands > 1 else 2]
    kind = ">u2" if maximum > 255 else "u1"
    values = np.frombuffer(data, kind, image.height * image.width * bands, offset)
    return Image.fromarray(_scales(image.mode, maximum)[np.minimum(values, maximum)].reshape(shape))


def _scales(mode: str, maximum: int) -> np.ndarray:
    """What each value is in 8 bits, uint8 [maximum + 1]."""
    values = np.arange(maximum + 1) / maximum
    if mode == "I":  # grey of more than 8 bits becomes 16 bits before it becomes 8
        values = np.rint(values * 65535) / 65535
    return np.rint(values * 255).astype(np.uint8)

"""JPEG pictures that are drawn from a seed, or CIFAR-10's: nothing that is committed or downloaded.

Drawn ones have the size in bytes of real ones, since that is what decoding and sending cost: soft
colours with a texture on top.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SEED = 20261121
_SMALL_PX = 64
_JPEG = b"\xff\xd8\xff"
_NAMES = ("image", "img")  # of the column, in the usual copies of CIFAR-10


def draw(count: int, model_px: int) -> list[bytes]:
    """Pictures for a model of this size.

    Returns:
        Below 64 px the model's own size and about 1 kB, like CIFAR's; else 500 x 375 px and 40 to
        60 kB, like ImageNet's.
    """
    rng = np.random.default_rng((_SEED, model_px))
    if model_px < _SMALL_PX:
        side = model_px, model_px
        return [_jpeg(_picture(rng, side, 6, rng.uniform(15, 25)), 75) for _ in range(count)]
    return [_jpeg(_picture(rng, (375, 500), 24, rng.uniform(7, 12)), 88) for _ in range(count)]


def cifar10(folder: str, count: int) -> list[bytes]:
    """The first pictures of CIFAR-10's test split: their own bytes where they are JPEG."""
    import datasets

    rows = datasets.load_dataset(folder, split=f"test[:{count}]")
    column = next(name for name in _NAMES if name in rows.column_names)
    files = [row["bytes"] for row in rows.cast_column(column, datasets.Image(decode=False))[column]]
    return [data if data.startswith(_JPEG) else _again(data) for data in files]


def _picture(
    rng: np.random.Generator, size: tuple[int, int], cells: int, texture: float
) -> NDArray[np.uint8]:
    """Soft colours from a coarse grid, with grey texture of some coarseness."""
    height, width = size
    coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    soft = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    half = rng.normal(0.0, texture, (height // 2 + 1, width // 2 + 1))
    grain = np.repeat(np.repeat(half, 2, axis=0), 2, axis=1)[:height, :width]
    grain = grain * 0.5 + rng.normal(0.0, texture * 0.35, (height, width))
    pixels = np.asarray(soft).astype(np.float64) * 0.8 + 25 + grain[..., None]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _again(data: bytes) -> bytes:
    return _jpeg(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), 75)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()

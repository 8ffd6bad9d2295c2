"""The pictures that are sent where people name none of their own, drawn from a seed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DRAWN = 64
_SEED = 20261121
_QUALITY = 80


def draw_pictures(folder: Path, height: int, width: int) -> list[Path]:
    """Draw JPEG pictures into a folder; noise alone would be dearer to decode than real ones."""
    rng = np.random.default_rng((_SEED, height, width))
    paths = [folder / f"{number}.jpg" for number in range(_DRAWN)]
    for path in paths:
        path.write_bytes(_jpeg(_picture(rng, height, width)))
    return paths


def _picture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Soft colours from a coarse grid, with some grain."""
    cells = min(24, max(2, min(height, width) // 6))
    coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    soft = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0.0, rng.uniform(6, 14), (height, width, 1))
    pixels = np.asarray(soft).astype(np.float64) * 0.8 + 25 + grain
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()

"""Load data as the tests want it: small, and with what was said about it."""

from __future__ import annotations

from pathlib import Path

from service.metadata import Resize
from training.data.dataset import ImageData, LoadOptions, load_data


def load(
    root: Path, image_px: int | None = 8, options: LoadOptions | None = None, seed: int = 0
) -> tuple[ImageData, str]:
    """The data, and the lines said."""
    lines: list[str] = []
    data = load_data(str(root), image_px, Resize(), seed, options, lines.append)
    return data, "\n".join(lines)

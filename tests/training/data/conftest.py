"""Small real pictures, written as people's files are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture
def write() -> Write:
    """Write a picture of noise; the same ``look`` gives the same pixels."""
    looks = iter(range(1000, 100_000))

    def write(path: Path, *, look=None, size=(12, 12), mode="RGB", **options) -> Path:
        rng = np.random.default_rng(next(looks) if look is None else look)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path, **options)
        return path

    return write


@pytest.fixture
def pets(tmp_path: Path, write: Write) -> Path:
    """Two classes with 5 training and 2 test pictures each."""
    root = tmp_path / "pets"
    for split, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                write(root / split / name / f"{index}.png")
    return root

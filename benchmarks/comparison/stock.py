"""The pictures of one model, the request bodies made of them, and the right answers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from comparison.bodies import Answer, Encoding, Images, Pixels
from comparison.processes import ServerError

TOLERANCE = 1e-3  # of a probability; batches of other sizes may round otherwise
# Different bodies of requests with this many images: enough that no two in a row are the same.
_BODIES = {1: 256, 32: 8, 1000: 2}
_CHUNK = 32


class Stock:
    """Pictures, pixels and answers of one model."""

    def __init__(self, folder: Path, pictures: list[bytes], pixels: Pixels) -> None:
        """Take pictures and what they decode to.

        Args:
            folder: For body files; it must be this stock's alone.
            pictures: JPEG files.
            pixels: uint8 [N, H, W, 3], in the same order.
        """
        self.folder = folder
        self.pictures = pictures
        self.pixels = pixels
        self.probabilities: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def answer_with(self, model: Path) -> None:
        """Compute the right answers with ONNX Runtime itself."""
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        parts = [
            session.run(["probabilities"], {"images": self.pixels[start : start + _CHUNK]})[0]
            for start in range(0, len(self.pixels), _CHUNK)
        ]
        self.probabilities = np.concatenate(parts)

    def bodies(self, encoding: Encoding, images: int) -> tuple[Path, ...]:
        """Body files of requests with so many images, written once."""
        folder = self.folder / f"{encoding.name}-{images}"
        folder.mkdir(parents=True, exist_ok=True)
        count = _BODIES[images]
        paths = tuple(folder / f"{index:03d}" for index in range(count))
        for index, path in enumerate(paths):
            if not path.exists():
                path.write_bytes(encoding.encode(self._images(self._indices(index, images))))
        return paths

    def check(self, body: int, images: int, answers: Sequence[Answer]) -> None:
        """Compare the answers to the body of this number with the right ones.

        Raises:
            ServerError: One is wrong, or their number is.
        """
        if len(answers) != images:
            raise ServerError(f"gave {len(answers)} answers for {images} images")
        for index, answer in zip(self._indices(body, images), answers, strict=True):
            row = self.probabilities[index]
            near_best = row[answer.class_id] >= row.max() - TOLERANCE
            if not near_best or abs(row.max() - answer.probability) > TOLERANCE:
                raise ServerError(
                    f"picture {index}: answered class {answer.class_id} with"
                    f" {answer.probability:.4f}, right is {row.argmax()} with {row.max():.4f}"
                )

    def _indices(self, body: int, images: int) -> list[int]:
        return [(body * images + offset) % len(self.pictures) for offset in range(images)]

    def _images(self, indices: Sequence[int]) -> Images:
        return Images(tuple(self.pictures[i] for i in indices), self.pixels[list(indices)])


def decode(data: bytes, px: int) -> Pixels:
    """What every server must make of a picture: its largest centred part at the model's size."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.size != (px, px):
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((px, px), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image)

"""What every peer's server shares: Pillow's decoding, one ONNX Runtime session, the first class.

The model file and the number of threads come from the environment, so that one server file serves
any model. Nothing here is of the project: a peer's environment has numpy, Pillow and ONNX Runtime.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

MODEL = Path(os.environ.get("BENCHMARK_MODEL", "model.onnx"))
CORES = int(os.environ.get("BENCHMARK_CORES", "1"))
# No server waits longer than this for a batch to fill; a peer that must have a number gets it.
MAX_BATCH_SIZE = 32
BATCH_DELAY_S = 0.005


class Classifier:
    """A loaded model: encoded pictures or pixels in, the first class of each out."""

    def __init__(self, threads: int = 0) -> None:
        """Load it.

        Args:
            threads: Of one run; 0 leaves ONNX Runtime's default, one a core.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.height, self.width = self.session.get_inputs()[0].shape[1:3]

    def decode(self, data: bytes) -> np.ndarray:
        """Decode one picture: its largest centred part, at the model's size."""
        return fit(Image.open(io.BytesIO(data)), self.height, self.width)

    def decode_all(self, pictures: list[bytes]) -> np.ndarray:
        """Decode pictures into one batch, uint8 [N, H, W, 3]."""
        return np.stack([self.decode(data) for data in pictures])

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First class of each image and its probability, [N] and [N]; at most 32 in one run."""
        parts = [
            self.session.run(["probabilities"], {"images": images[start : start + MAX_BATCH_SIZE]})
            for start in range(0, len(images), MAX_BATCH_SIZE)
        ]
        probabilities = np.concatenate([part[0] for part in parts])
        return probabilities.argmax(axis=1), probabilities.max(axis=1)

    def classify(self, images: np.ndarray) -> list[dict[str, float]]:
        """The same as a JSON answer."""
        classes, probabilities = self.run(images)
        return [
            {"class_id": int(index), "probability": float(value)}
            for index, value in zip(classes, probabilities, strict=True)
        ]


def fit(image: Image.Image, height: int, width: int) -> np.ndarray:
    """RGB pixels of the largest centred part of the right shape, uint8 [height, width, 3]."""
    image = image.convert("RGB")
    if image.size != (width, height):
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image)


def read_npy(data: bytes) -> np.ndarray:
    """An array as ``numpy.save`` wrote it."""
    return np.load(io.BytesIO(data), allow_pickle=False)

"""TorchServe: a handler that runs the ONNX file; its frontend batches requests.

A request is one picture as it is, a form of several, or pixels as .npy; its batch is then the
pictures of all its requests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from classifier import Classifier, read_npy

NPY_MAGIC = b"\x93NUMPY"


class Handler:
    """One worker's model."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        self.classifier = Classifier(threads=1)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[list[dict[str, float]]]:
        """Classify the requests of one batch."""
        requests = [self._images(row) for row in data]
        answers = iter(self.classifier.classify(np.concatenate(requests)))
        return [[next(answers) for _ in images] for images in requests]

    def _images(self, row: dict[str, Any]) -> np.ndarray:
        files = [bytes(value) for value in row.values()]
        if files[0].startswith(NPY_MAGIC):
            return read_npy(files[0])
        return self.classifier.decode_all(files)

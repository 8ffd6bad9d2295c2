"""BentoML: adaptive batching over the pictures of all requests, one worker a core."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from classifier import CORES, MAX_BATCH_SIZE, Classifier, read_npy


# A small max_latency_ms makes it refuse requests under load; its default, 60 s, makes a lone client
# wait for seconds while it learns.
@bentoml.service(workers=CORES, traffic={"timeout": 60, "max_concurrency": 4096})
class Classify:
    """One model."""

    def __init__(self) -> None:
        """Load it."""
        self.classifier = Classifier(threads=1)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=10_000)
    def classify(self, images: list[Path]) -> list[dict[str, float]]:
        """Pictures as a form."""
        pictures = [image.read_bytes() for image in images]
        return self.classifier.classify(self.classifier.decode_all(pictures))

    @bentoml.api
    def tensor(
        self, images: Annotated[Path, ContentType("application/x-npy")], /
    ) -> list[dict[str, float]]:
        """Pixels as .npy."""
        return self.classifier.classify(read_npy(images.read_bytes()))

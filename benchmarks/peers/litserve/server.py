"""LitServe: pictures come as files of a form; requests are batched, one worker a core.

A request may hold several pictures; its batch is then the pictures of all its requests.
"""

# No "from __future__ import annotations" here: LitServe compares the annotation of a request with
# the class itself.
import argparse
from collections.abc import Sequence

import litserve as ls
import numpy as np
from classifier import BATCH_DELAY_S, CORES, MAX_BATCH_SIZE, Classifier, read_npy
from fastapi import Request


class Classify(ls.LitAPI):
    """One model; decoding and running happen in the worker process."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.classifier = Classifier(threads=1)

    def decode_request(self, request: Request) -> np.ndarray:
        """Files of a form: pictures, or one .npy; [N, H, W, 3]."""
        files = [part.file.read() for _, part in request.multi_items()]
        if files[0].startswith(b"\x93NUMPY"):
            return read_npy(files[0])
        return self.classifier.decode_all(files)

    def batch(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """Put requests together."""
        return np.concatenate(inputs), [len(images) for images in inputs]

    def predict(self, batch: tuple[np.ndarray, list[int]]) -> list[list[dict[str, float]]]:
        """Classify all; give each request its own."""
        images, counts = batch
        answers = iter(self.classifier.classify(images))
        return [[next(answers) for _ in range(count)] for count in counts]

    def unbatch(self, output: list[list[dict[str, float]]]) -> list[list[dict[str, float]]]:
        """Already apart."""
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    api = Classify(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_DELAY_S, api_path="/classify")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=CORES)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")

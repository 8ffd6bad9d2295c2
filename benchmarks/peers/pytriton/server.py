"""Triton through PyTriton: the V2 protocol in binary, with Triton's dynamic batching."""

from __future__ import annotations

import argparse

import numpy as np
from classifier import BATCH_DELAY_S, CORES, MAX_BATCH_SIZE, Classifier
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

# A request of many images is one batch to Triton; of single images it gathers at most 32.
MAX_REQUEST = 1024


class Pictures:
    """Takes encoded pictures."""

    def __init__(self) -> None:
        """Load the model."""
        self.classifier = Classifier(threads=1)

    @batch
    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Bytes [N, 1] to the first class of each."""
        return _answer(self.classifier, self.classifier.decode_all(list(pictures[:, 0])))


class Pixels:
    """Takes pixels."""

    def __init__(self) -> None:
        """Load the model."""
        self.classifier = Classifier(threads=1)

    @batch
    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 [N, H, W, 3] to the first class of each."""
        return _answer(self.classifier, pixels)


def _answer(classifier: Classifier, images: np.ndarray) -> dict[str, np.ndarray]:
    classes, probabilities = classifier.run(images)
    return {"class": classes.astype(np.int32)[:, None], "probability": probabilities[:, None]}


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    outputs = [
        Tensor(name="class", dtype=np.int32, shape=(1,)),
        Tensor(name="probability", dtype=np.float32, shape=(1,)),
    ]
    batcher = DynamicBatcher(
        max_queue_delay_microseconds=int(BATCH_DELAY_S * 1e6), preferred_batch_size=[MAX_BATCH_SIZE]
    )
    config = ModelConfig(batching=True, max_batch_size=MAX_REQUEST, batcher=batcher)
    ports = TritonConfig(
        http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False
    )
    with Triton(config=ports) as triton:
        triton.bind(
            model_name="pictures",
            infer_func=[Pictures() for _ in range(CORES)],
            inputs=[Tensor(name="pictures", dtype=bytes, shape=(1,))],
            outputs=outputs,
            config=config,
            strict=False,
        )
        pixels = [Pixels() for _ in range(CORES)]
        height, width = pixels[0].classifier.height, pixels[0].classifier.width
        triton.bind(
            model_name="pixels",
            infer_func=pixels,
            inputs=[Tensor(name="pixels", dtype=np.uint8, shape=(height, width, 3))],
            outputs=outputs,
            config=config,
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()

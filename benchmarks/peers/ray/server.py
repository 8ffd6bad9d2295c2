"""Ray Serve: one replica a core, each gathers its requests with ``@serve.batch``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal

import numpy as np
import ray
from classifier import BATCH_DELAY_S, CORES, MAX_BATCH_SIZE, Classifier, read_npy
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=CORES, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Classify:
    """One model."""

    def __init__(self) -> None:
        """Load it."""
        self.classifier = Classifier(threads=1)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_DELAY_S)
    async def classify(self, pictures: list[bytes]) -> list[list[dict[str, float]]]:
        """Pictures of several requests at once."""
        return [
            [answer] for answer in self.classifier.classify(self.classifier.decode_all(pictures))
        ]

    async def __call__(self, request: Request) -> list[dict[str, float]]:
        """One picture as it is, several as a form, or pixels as .npy."""
        kind = request.headers.get("content-type", "")
        if kind.startswith("multipart/"):
            async with request.form() as form:
                files = [await part.read() for _, part in form.multi_items()]
            return self._classify(self.classifier.decode_all(files))
        body = await request.body()
        if kind == "application/x-npy":
            return self._classify(read_npy(body))
        return await self.classify(body)

    def _classify(self, images: np.ndarray) -> list[dict[str, float]]:
        return self.classifier.classify(images)


async def _until_signal() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 * 2**20,
        _temp_dir=os.environ["TMPDIR"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Classify.bind(), route_prefix="/")
    asyncio.run(_until_signal())
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()

"""The one door to the engine: images in, ranked classes out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engine.batcher import BatcherOptions
from service.engine.decode import decode_image, fit_pixels
from service.engine.errors import ImageError
from service.engine.ranking import Ranking, rank
from service.engine.repository import ModelRepository, ReadyVersion
from service.engine.session import SessionOptions

_DECODE_CHUNK = 16  # images that one decoding thread takes at a time


@dataclass(frozen=True)
class EngineOptions:
    """How the engine is built; ``service.settings`` has the meaning of each."""

    repository: Path
    default_model: str | None
    sessions: SessionOptions
    batching: BatcherOptions
    decode_threads: int
    max_image_pixels: int
    request_timeout_s: float


@dataclass(frozen=True)
class Decoded:
    """Images of a request, ready to run.

    Attributes:
        pixels: The good ones, uint8 [M, H, W, 3].
        count: How many images the request has, M plus the bad ones.
        errors: What is wrong with each bad one, by its index in the request.
    """

    pixels: NDArray[np.uint8]
    count: int
    errors: dict[int, ImageError]


class Predictor:
    """Finds the model, decodes, batches, ranks."""

    def __init__(self, options: EngineOptions) -> None:
        """Make the pools; models are loaded by ``repository.refresh``."""
        self._options = options
        self._decode_pool = ThreadPoolExecutor(options.decode_threads, "decode")
        self._run_pool = ThreadPoolExecutor(options.decode_threads, "run")
        self.repository = ModelRepository(
            options.repository, options.sessions, self._run_pool, options.batching
        )

    def find(self, name: str | None, version: int | None) -> ReadyVersion:
        """Choose the version that answers; errors as ``ModelRepository.find``."""
        return self.repository.find(name, version, self._options.default_model)

    async def decode(self, model: ReadyVersion, images: Sequence[bytes | ImageError]) -> Decoded:
        """Decode encoded images in worker threads, for one model's input.

        Bad images are collected, not raised; one that was found bad before stands as its error.
        """
        size = model.session.metadata.input
        pixels = np.empty((len(images), size.height, size.width, 3), np.uint8)
        errors: dict[int, ImageError] = {}

        def decode_chunk(start: int) -> None:
            for index in range(start, min(start + _DECODE_CHUNK, len(images))):
                image = images[index]
                try:
                    if isinstance(image, ImageError):
                        raise image
                    pixels[index] = decode_image(
                        image,
                        size.height,
                        size.width,
                        size.resize,
                        self._options.max_image_pixels,
                    )
                except ImageError as error:
                    errors[index] = error

        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(
                loop.run_in_executor(self._decode_pool, decode_chunk, start)
                for start in range(0, len(images), _DECODE_CHUNK)
            )
        )
        if errors:
            pixels = np.delete(pixels, sorted(errors), axis=0)
        return Decoded(pixels, len(images), errors)

    async def fit(self, model: ReadyVersion, pixels: NDArray[np.uint8]) -> Decoded:
        """Bring plain pixels, uint8 [N, H, W, 3], to one model's input."""
        size = model.session.metadata.input
        fitted = await asyncio.get_running_loop().run_in_executor(
            self._decode_pool,
            partial(fit_pixels, pixels, size.height, size.width, size.resize),
        )
        return Decoded(fitted, len(pixels), {})

    async def classify(self, model: ReadyVersion, pixels: NDArray[np.uint8], k: int) -> Ranking:
        """Run images, uint8 [N, H, W, 3] with N >= 1, and rank their classes.

        Raises:
            QueueFullError: Too many images wait already.
            DeadlineExceededError: No answer within the configured time.
            InferenceError: The session failed.
        """
        prediction = await model.batcher.submit(pixels, self._options.request_timeout_s)
        return rank(prediction.probabilities, k)

    def close(self) -> None:
        """Let the pools' threads end once they are idle."""
        self._decode_pool.shutdown(wait=False)
        self._run_pool.shutdown(wait=False)

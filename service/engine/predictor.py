"""The one door to the engine: images in, ranked classes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.admission import Admission, AdmissionLimits
from service.engine.decode import decode_image, fit_image
from service.engine.errors import DeadlineExceededError, ImageError, InvalidImagesError
from service.engine.ranking import Ranking, rank
from service.engine.repository import ModelRepository, ReadyVersion, RepositoryOptions

_TURN_S = 0.005  # long beside handing a turn over, short beside what a client notices
# More than one, so that the next batch is put together while one runs; not many, because each run
# on a CPU takes all its threads.
_RUN_THREADS = 2
# Ranking this many probabilities takes about a millisecond; more would hold up the event loop.
_RANK_ON_LOOP = 20_000

EncodedImages = Sequence[bytes | ImageError]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class EngineOptions:
    """How the engine is built; ``service.settings`` has the meaning of each."""

    models: RepositoryOptions
    admission: AdmissionLimits
    decode_threads: int
    max_image_pixels: int
    request_timeout_s: float


@dataclass(frozen=True)
class Outcome:
    """The answer to a request of N images.

    Attributes:
        count: N.
        ranking: Classes of the good images, in order; None where there is no good one.
        errors: What is wrong with each bad one, by its index in the request.
    """

    count: int
    ranking: Ranking | None
    errors: dict[int, ImageError]


class Predictor:
    """Admits, decodes, batches, ranks."""

    def __init__(self, options: EngineOptions) -> None:
        """Make the pools; models are loaded by ``repository.refresh``."""
        self._options = options
        self._admission = Admission(options.admission)
        self._decode_pool = ThreadPoolExecutor(options.decode_threads, "decode")
        self._run_pool = ThreadPoolExecutor(_RUN_THREADS, "run")
        self.repository = ModelRepository(options.models, self._run_pool)

    async def predict(
        self, model: ReadyVersion, images: EncodedImages | Pixels, k: int, *, skip_errors: bool
    ) -> Outcome:
        """Classify images. Cancelling this drops all work that has not begun.

        Args:
            model: As found in the repository.
            images: N >= 1 encoded images, an error in the place of one that is known to be bad;
                or plain RGB pixels, uint8 [N, H, W, 3], of any size.
            k: Classes an image.
            skip_errors: Answer the good images although others are bad.

        Raises:
            RequestTooLargeError: The pixels need more memory than the service has for all.
            QueueFullError: The service is full; nothing was done.
            DeadlineExceededError: No answer within the configured time.
            ImageError: The only image is bad.
            InvalidImagesError: Some images are bad and ``skip_errors`` is false.
            InferenceError: The session failed.
        """
        size = model.session.metadata.input
        timeout_s = self._options.request_timeout_s
        with self._admission.admit(len(images), len(images) * size.height * size.width * 3):
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._predict(model, images, k, skip_errors)
            except TimeoutError:
                raise DeadlineExceededError(
                    f"No answer from model {model.name!r} within {timeout_s:g} s.",
                    hint="Send fewer images in one request, retry later, or raise"
                    " request_timeout_s.",
                ) from None

    def close(self) -> None:
        """Let the pools' threads end once they are idle, and a refresh that is under way."""
        self.repository.close()
        self._decode_pool.shutdown(wait=False, cancel_futures=True)
        self._run_pool.shutdown(wait=False, cancel_futures=True)

    async def _predict(
        self, model: ReadyVersion, images: EncodedImages | Pixels, k: int, skip_errors: bool
    ) -> Outcome:
        pixels, errors = await self._to_input(model, images)
        if errors and not skip_errors:
            raise errors[0] if len(images) == 1 else InvalidImagesError(errors, of=len(images))
        if errors:
            pixels = np.delete(pixels, sorted(errors), axis=0)
        if not len(pixels):
            return Outcome(len(images), None, errors)
        probabilities = (await model.batcher.submit(pixels)).probabilities
        if probabilities.size <= _RANK_ON_LOOP:
            ranking = rank(probabilities, k)
        else:
            loop = asyncio.get_running_loop()
            ranking = await loop.run_in_executor(self._decode_pool, rank, probabilities, k)
        return Outcome(len(images), ranking, errors)

    async def _to_input(
        self, model: ReadyVersion, images: EncodedImages | Pixels
    ) -> tuple[Pixels, dict[int, ImageError]]:
        """Pixels of the model's size, uint8 [N, height, width, 3], and the bad images' errors."""
        size = model.session.metadata.input
        shape = (size.height, size.width)
        errors: dict[int, ImageError] = {}
        if isinstance(images, np.ndarray) and images.shape[1:3] == shape:
            return images, errors
        pixels = np.empty((len(images), *shape, 3), np.uint8)

        def fill(index: int) -> None:
            image = images[index]
            try:
                if isinstance(image, ImageError):
                    raise image
                if isinstance(image, bytes):
                    limit = self._options.max_image_pixels
                    pixels[index] = decode_image(image, *shape, size.resize, limit)
                else:
                    pixels[index] = fit_image(image, *shape, size.resize)
            except ImageError as error:
                errors[index] = error

        await self._in_turns(fill, len(images))
        return pixels, errors

    async def _in_turns(self, fill: Callable[[int], None], count: int) -> None:
        """Call ``fill`` for every index below ``count`` in the decoding threads, a turn at a time.

        A thread works for one request only for a moment, then it goes to the end of the line, so
        that another request's image is behind a turn of this one and not behind all of it.
        """
        loop = asyncio.get_running_loop()
        indices = iter(range(count))  # the lanes share it; taking the next one is atomic

        def take_a_turn() -> bool:
            until = time.perf_counter() + _TURN_S
            for index in indices:
                fill(index)
                if time.perf_counter() >= until:
                    return True
            return False

        async def lane() -> None:
            while await loop.run_in_executor(self._decode_pool, take_a_turn):
                pass

        await asyncio.gather(*(lane() for _ in range(min(count, self._options.decode_threads))))

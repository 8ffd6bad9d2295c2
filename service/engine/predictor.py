"""The one door to the engine: images in, ranked classes out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np

from service.engine import heap
from service.engine.admission import Admission, AdmissionLimits
from service.engine.batcher import Flow, Receipt, Ticket
from service.engine.decoding import Decoding, DecodingOptions
from service.engine.errors import (
    DeadlineExceededError,
    ImageError,
    InvalidImagesError,
    RequestTooLargeError,
    ServiceError,
)
from service.engine.images import Chunk, Images, ImageStream
from service.engine.lanes import Lanes
from service.engine.metrics import Account, Metrics
from service.engine.ranking import Ranked, Ranking, join, rank, rank_one
from service.engine.repository import ModelRepository, ReadyVersion, RepositoryOptions

# Ranking this many probabilities takes about a millisecond; more would hold up the event loop.
_RANK_ON_LOOP = 20_000
# Images of a large request that are decoded and queued together.
_CHUNK = 64
# A large request has so many batches in work a lane: one that runs, and one to go on with.
_BATCHES_AHEAD = 2
_BYTES_A_RANK = 8


@dataclass(frozen=True)
class EngineOptions:
    """How the engine is built; ``service.settings`` has the meaning of each."""

    models: RepositoryOptions
    admission: AdmissionLimits
    decode: DecodingOptions
    request_timeout_s: float


@dataclass(frozen=True)
class Outcome:
    """The answer to a request of N images.

    Attributes:
        count: N.
        ranking: Classes of the good images, in order; None where there is no good one.
        errors: What is wrong with each bad one, by its index in the request.
        decode_s: Time spent on decoding, of a large request beside its runs.
        receipt: What became of its images in the engine; None where there is no good one.
    """

    count: int
    ranking: Ranked | None
    errors: dict[int, ImageError]
    decode_s: float
    receipt: Receipt | None


@dataclass
class _Progress:
    """A request of many images on its way."""

    flow: Flow
    skip_errors: bool
    count: int = 0
    decode_s: float = 0.0
    errors: dict[int, ImageError] = field(default_factory=dict)
    rankings: list[Ranking] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    in_work: deque[Ticket] = field(default_factory=deque)
    images_in_work: int = 0
    count_done: int = 0

    @property
    def failed(self) -> bool:
        return bool(self.errors) and not self.skip_errors

    def outcome(self) -> Outcome:
        receipts = self.receipts
        receipt = None
        if receipts:
            largest = max(receipt.batch_size for receipt in receipts)
            run_s = sum(receipt.run_s for receipt in receipts)
            receipt = Receipt(largest, receipts[0].queue_s, run_s)
        ranking = join(self.rankings) if self.rankings else None
        return Outcome(self.count, ranking, self.errors, self.decode_s, receipt)


class Predictor:
    """Admits, decodes, batches, ranks."""

    def __init__(self, options: EngineOptions, metrics: Metrics | None = None) -> None:
        """Start the threads; models are loaded by ``repository.refresh``."""
        heap.share_arenas(max(2, options.models.instances.cpus))
        self._options = options
        self.metrics = metrics or Metrics()
        self.admission = Admission(options.admission)
        self._decoding = Decoding(options.decode)
        self.lanes = Lanes(options.models.instances.lanes)
        self.repository = ModelRepository(options.models, self.metrics)
        self.metrics.watch(lambda: self.admission.images)

    async def predict(
        self,
        model: ReadyVersion,
        images: Images,
        k: int,
        *,
        skip_errors: bool,
        timeout_s: float | None = None,
    ) -> Outcome:
        """Classify images. Cancelling this drops all work that has not begun.

        Args:
            model: As found in the repository.
            images: N >= 1 images, all at once or as a stream.
            k: Classes an image.
            skip_errors: Answer the good images although others are bad.
            timeout_s: Time for all of them; None: as configured.

        Raises:
            RequestTooLargeError: It needs more memory than the service has for all.
            QueueFullError: The service is full; nothing was done.
            DeadlineExceededError: No answer in time.
            ImageError: The only image is bad.
            InvalidImagesError: Some images are bad and ``skip_errors`` is false.
            InferenceError: The session failed.
            InputError: The stream turned out to be wrong.
        """
        timeout_s = timeout_s or self._options.request_timeout_s
        account = Account()
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await self._outcome(model, images, k, skip_errors, account)
        except ServiceError as error:
            model.metrics.failed(account, error)
            raise
        except asyncio.CancelledError:
            model.metrics.unanswered(account, "client_gone")
            raise
        except TimeoutError:
            model.metrics.unanswered(account, "deadline")
            raise DeadlineExceededError(
                f"No answer from model {model.name!r} within {timeout_s:g} s.",
                hint="Send fewer images in one request, retry later, or allow more time with"
                " X-Request-Timeout or request_timeout_s.",
            ) from None
        model.metrics.answered(outcome.count, outcome.errors)
        return outcome

    def close(self) -> None:
        """Let the threads end once they are idle, and a refresh that is under way."""
        self.repository.close()
        self._decoding.close()
        self.lanes.close()

    async def _outcome(
        self, model: ReadyVersion, images: Images, k: int, skip_errors: bool, account: Account
    ) -> Outcome:
        if not isinstance(images, ImageStream) and len(images) == 1:
            outcome = await self._predict_one(model, images, k, account)
        else:
            outcome = await self._predict_many(model, images, k, skip_errors, account)
        if outcome.errors and not skip_errors:
            if outcome.count == 1:
                raise outcome.errors[0]
            raise InvalidImagesError(outcome.errors, of=outcome.count)
        return outcome

    async def _predict_one(
        self, model: ReadyVersion, images: Chunk, k: int, account: Account
    ) -> Outcome:
        size = model.metadata.input
        account.received = 1
        self.admission.enter(1, size.pixel_bytes)
        account.admitted = True
        try:
            started_s = time.perf_counter()
            pixels, errors = await self._decoding.pixels(images, size)
            decode_s = time.perf_counter() - started_s
            model.metrics.decoded(decode_s)
            if errors:
                account.bad = errors
                return Outcome(1, None, errors, decode_s, None)
            ticket = self.lanes.put(model.batcher, pixels, Flow())
            try:
                served = await ticket.answer
            finally:
                account.ran = 1 - self.lanes.withdraw(model.batcher, ticket)
        finally:
            self.admission.leave(1, size.pixel_bytes)
        ranking = rank_one(served.prediction.probabilities, k)
        return Outcome(1, ranking, errors, decode_s, served.receipt)

    async def _predict_many(
        self, model: ReadyVersion, images: Images, k: int, skip_errors: bool, account: Account
    ) -> Outcome:
        """Decode, queue and rank bit by bit, so that only some images are in work at a time."""
        plan = model.batcher.plan
        window = max(_CHUNK, _BATCHES_AHEAD * self.lanes.count * plan.batch_size)
        large = isinstance(images, ImageStream) or len(images) > plan.small_batch_size
        flow = Flow(large=large)
        progress = _Progress(flow, skip_errors)
        account.bad = progress.errors
        if not isinstance(images, ImageStream):
            account.received = len(images)
        try:
            async for chunk in _chunks(images, self._chunk_size(model, images)):
                account.received = max(account.received, progress.count + len(chunk))
                await self._begin(model, chunk, progress, account)
                while progress.images_in_work > window and not progress.failed:
                    await self._end_one(progress, k)
            while progress.in_work and not progress.failed:
                await self._end_one(progress, k)
        finally:
            account.ran = progress.count_done
            for ticket in progress.in_work:
                left = self.lanes.withdraw(model.batcher, ticket)
                account.ran += len(ticket.images) - left
        return progress.outcome()

    def _chunk_size(self, model: ReadyVersion, images: Images) -> int:
        limits = self.admission.limits
        in_memory = limits.pixel_bytes // model.metadata.input.pixel_bytes
        # Pixels that lie in memory anyway cost nothing more while they wait.
        wanted = 4 * _CHUNK if isinstance(images, np.ndarray) else _CHUNK
        return max(1, min(wanted, limits.images, in_memory))

    async def _begin(
        self, model: ReadyVersion, chunk: Chunk, progress: _Progress, account: Account
    ) -> None:
        """Let some images in, decode and queue them."""
        size, count = model.metadata.input, len(chunk)
        if progress.count:
            await self.admission.enter_later(count, count * size.pixel_bytes)
        else:
            self.admission.enter(count, count * size.pixel_bytes)
            account.admitted = True
        begun = 0
        try:
            started_s = time.perf_counter()
            pixels, errors = await self._decoding.pixels(chunk, size)
            decode_s = time.perf_counter() - started_s
            progress.decode_s += decode_s
            model.metrics.decoded(decode_s)
            for index, error in errors.items():
                progress.errors[progress.count + index] = error
            progress.count += count
            begun = len(pixels)
            if progress.failed:
                begun = 0  # the rest is read only to say which others are bad
            if begun:
                ticket = self.lanes.put(model.batcher, pixels, progress.flow)
                # When they are done and not when they are collected: this very request may wait
                # for their place.
                leaving = begun, begun * size.pixel_bytes
                ticket.answer.add_done_callback(lambda _: self.admission.leave(*leaving))
                progress.in_work.append(ticket)
                progress.images_in_work += begun
        finally:
            left = count - begun
            if left:
                self.admission.leave(left, left * size.pixel_bytes)

    async def _end_one(self, progress: _Progress, k: int) -> None:
        """Wait for the images that were queued first, and keep of them what will be told."""
        served = await progress.in_work[0].answer
        done = len(progress.in_work.popleft().images)
        progress.images_in_work -= done
        progress.count_done += done
        probabilities = served.prediction.probabilities
        if probabilities.size <= _RANK_ON_LOOP:
            ranking = rank(probabilities, k)
        else:
            loop = asyncio.get_running_loop()
            ranking = await loop.run_in_executor(self._decoding.pool, rank, probabilities, k)
        progress.rankings.append(ranking)
        progress.receipts.append(served.receipt)
        kept_bytes = progress.count * ranking.class_ids.shape[1] * _BYTES_A_RANK
        limit = self.admission.limits.pixel_bytes
        if kept_bytes > limit:
            raise RequestTooLargeError(
                f"The answer has {kept_bytes} bytes of classes already; the limit is {limit}.",
                hint="Ask for fewer classes (top_k), or split the images over several requests.",
            )


async def _chunks(images: Images, size: int) -> AsyncIterator[Chunk]:
    """Images in bits of at most ``size``."""
    if isinstance(images, ImageStream):
        async for chunk in images.chunks:
            for start in range(0, len(chunk), size):
                yield chunk[start : start + size]
        return
    for start in range(0, len(images), size):
        yield images[start : start + size]

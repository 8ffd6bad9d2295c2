"""The one door to the engine: images in, ranked classes out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np

from service.engine import heap
from service.engine.admission import Admission, AdmissionLimits
from service.engine.batcher import Receipt, Served
from service.engine.decoding import Decoding, DecodingOptions
from service.engine.devices import parse_devices
from service.engine.errors import (
    DeadlineExceededError,
    ImageError,
    InvalidImagesError,
    NotFiniteError,
    RequestTooLargeError,
    ServiceError,
)
from service.engine.gauges import Look
from service.engine.images import Chunk, Images, ImageStream
from service.engine.lanes import Lanes
from service.engine.metrics import Account, Metrics
from service.engine.pipeline import Part, Pipeline
from service.engine.ranking import Ranked, Ranking, join, rank_finite, rank_one
from service.engine.repository import ModelRepository, ReadyVersion, RepositoryOptions
from service.engine.session import Prediction

_Answer = TypeVar("_Answer")

# Ranking this many probabilities takes about a millisecond; more would hold up the event loop.
_RANK_ON_LOOP = 20_000
_BYTES_A_RANK = 8


@dataclass(frozen=True)
class EngineOptions:
    """How the engine is built; ``service.settings`` has the meaning of each."""

    models: RepositoryOptions
    admission: AdmissionLimits
    decode: DecodingOptions
    request_timeout_s: float
    run_timeout_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The answer to a request of N images, or to N consecutive images of it.

    Attributes:
        count: N.
        ranking: Classes of the good images, in order; None where there is no good one.
        errors: What is wrong with each bad one, by its index in the request.
        decode_s: Time spent on decoding, of a large request beside its runs.
        receipt: What became of its images in the engine; None where none has run.
        start: Index in the request of the first.
    """

    count: int
    ranking: Ranked | None
    errors: dict[int, ImageError]
    decode_s: float
    receipt: Receipt | None
    start: int = 0


@dataclass(frozen=True)
class Inferred:
    """What a network gives for the N images of a request.

    Attributes:
        prediction: Logits and probabilities, float32 [N, C] each.
        decode_s: Time spent on decoding, of a large request beside its runs.
        receipt: What became of its images in the engine.
    """

    prediction: Prediction
    decode_s: float
    receipt: Receipt


class Predictor:
    """Admits, decodes, batches, ranks."""

    def __init__(self, options: EngineOptions, metrics: Metrics | None = None) -> None:
        """Start the threads; models are loaded by ``repository.refresh``."""
        heap.share_arenas(max(2, options.models.instances.cpus))
        self._options = options
        self.metrics = metrics or Metrics()
        self.admission = Admission(options.admission)
        self._decoding = Decoding(options.decode)
        self.lanes = Lanes(options.models.instances.lanes, options.run_timeout_s)
        self._pipeline = Pipeline(self.admission, self._decoding, self.lanes)
        self.repository = ModelRepository(options.models, self.metrics)
        self.metrics.watch(lambda: self.admission.images)
        self.metrics.gauges.watch(self._look)

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
        account = Account()
        work = self._predict(model, images, k, skip_errors, account)
        outcome = await self._accounted(model, account, work, timeout_s)
        model.metrics.answered(outcome.count, outcome.errors)
        return outcome

    async def infer(
        self, model: ReadyVersion, images: Chunk, *, timeout_s: float | None = None
    ) -> Inferred:
        """Give what the network gives. Cancelling this drops all work that has not begun.

        Args:
            model: As found in the repository.
            images: N >= 1 images.
            timeout_s: Time for all of them; None: as configured.

        Raises:
            ServiceError: As ``predict`` does.
        """
        account = Account()
        inferred = await self._accounted(
            model, account, self._infer(model, images, account), timeout_s
        )
        model.metrics.answered(len(images), {})
        return inferred

    async def predict_in_parts(
        self,
        model: ReadyVersion,
        images: Images,
        k: int,
        tell: Callable[[Outcome], Awaitable[None]],
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Classify images and tell the results bit by bit, in order, the bad ones as errors.

        Args:
            model: As found in the repository.
            images: N >= 1 images, all at once or as a stream.
            k: Classes an image.
            tell: Awaited with every bit; no more than a few batches run ahead of it.
            timeout_s: Time for all of them; None: as configured, from each bit to the next.

        Raises:
            ServiceError: As ``predict`` does, but for errors of images.
        """
        account = Account()
        patience_s = self._options.request_timeout_s
        deadline = asyncio.timeout(timeout_s or patience_s)

        async def keep(part: Part, served: Served | None) -> None:
            ranking, receipt, errors = None, None, part.errors
            if served is not None:
                ranking, rows = await self._rank(served, k)
                receipt = served.receipt
                errors = {**errors, **_not_finite(model, part, rows)}
            await tell(Outcome(part.count, ranking, errors, part.decode_s, receipt, part.start))
            model.metrics.answered(part.count, errors)
            account.received -= part.count
            account.ran -= part.count - len(part.errors)
            for index in part.errors:
                del progress.errors[index]
            if timeout_s is None:
                deadline.reschedule(asyncio.get_running_loop().time() + patience_s)

        progress = self._pipeline.begin_many(model, images, account, skip_errors=True, prompt=True)
        work = self._pipeline.run_many(model, images, progress, keep)
        await self._accounted(model, account, work, timeout_s, deadline)

    def close(self) -> None:
        """Let the threads end once they are idle, and a refresh that is under way."""
        self.repository.close()
        self._decoding.close()
        self.lanes.close()

    def _look(self) -> Look:
        ready = [
            entry.ready
            for versions in self.repository.catalog.values()
            for entry in versions.values()
            if entry.ready is not None
        ]
        idle = len(self.lanes.idle)
        devices = {device for one in ready for device in parse_devices(one.instances.device).each}
        return Look(
            {(one.name, one.version): one.batcher.waiting for one in ready},
            self.lanes.count - idle,
            idle,
            self.lanes.lost,
            frozenset(device.index for device in devices if device.kind != "cpu"),
        )

    async def _accounted(
        self,
        model: ReadyVersion,
        account: Account,
        work: Coroutine[Any, Any, _Answer],
        timeout_s: float | None,
        deadline: asyncio.Timeout | None = None,
    ) -> _Answer:
        """Do the work of a request in its time, and count what becomes of it if it fails."""
        timeout_s = timeout_s or self._options.request_timeout_s
        try:
            async with deadline or asyncio.timeout(timeout_s):
                return await work
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

    async def _predict(
        self, model: ReadyVersion, images: Images, k: int, skip_errors: bool, account: Account
    ) -> Outcome:
        if not isinstance(images, ImageStream) and len(images) == 1:
            part, served = await self._pipeline.run_one(model, images, account)
            ranking = rank_one(served.prediction.probabilities, k) if served else None
            receipt = served.receipt if served else None
            errors = part.errors
            if served and ranking is None:
                errors = account.bad = _not_finite(model, part, [0])
                account.ran = 0
            outcome = Outcome(1, ranking, errors, part.decode_s, receipt)
        else:
            outcome = await self._predict_many(model, images, k, skip_errors, account)
        if outcome.errors and not skip_errors:
            _raise_bad(outcome.errors, outcome.count)
        return outcome

    async def _predict_many(
        self, model: ReadyVersion, images: Images, k: int, skip_errors: bool, account: Account
    ) -> Outcome:
        rankings: list[Ranking] = []
        receipts: list[Receipt] = []
        decode_s = 0.0

        async def keep(part: Part, served: Served | None) -> None:
            nonlocal decode_s
            decode_s += part.decode_s
            if served is None or progress.failed:
                return
            ranking, rows = await self._rank(served, k)
            progress.errors.update(_not_finite(model, part, rows))
            account.ran -= len(rows)
            rankings.append(ranking)
            receipts.append(served.receipt)
            self._check_answer(progress.count * ranking.class_ids.shape[1])

        progress = self._pipeline.begin_many(model, images, account, skip_errors=skip_errors)
        await self._pipeline.run_many(model, images, progress, keep)
        ranking = join(rankings) if rankings else None
        receipt = Receipt.joined(receipts) if receipts else None
        return Outcome(progress.count, ranking, progress.errors, decode_s, receipt)

    async def _infer(self, model: ReadyVersion, images: Chunk, account: Account) -> Inferred:
        if len(images) == 1:
            part, served = await self._pipeline.run_one(model, images, account)
            if served is None:
                _raise_bad(part.errors, 1)
            return Inferred(served.prediction, part.decode_s, served.receipt)
        done: list[Served] = []
        decode_s = 0.0

        async def keep(part: Part, served: Served | None) -> None:
            nonlocal decode_s
            decode_s += part.decode_s
            if served is not None and not progress.failed:
                done.append(served)
                self._check_answer(progress.count * served.prediction.logits.shape[1])

        progress = self._pipeline.begin_many(model, images, account, skip_errors=False)
        await self._pipeline.run_many(model, images, progress, keep)
        if progress.errors:
            _raise_bad(progress.errors, progress.count)
        prediction = Prediction(
            np.concatenate([served.prediction.logits for served in done]),
            np.concatenate([served.prediction.probabilities for served in done]),
        )
        return Inferred(prediction, decode_s, Receipt.joined([served.receipt for served in done]))

    async def _rank(self, served: Served, k: int) -> tuple[Ranking, list[int]]:
        probabilities = served.prediction.probabilities
        if probabilities.size <= _RANK_ON_LOOP:
            return rank_finite(probabilities, k)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoding.pool, rank_finite, probabilities, k)

    def _check_answer(self, values: int) -> None:
        """Refuse an answer that would take too much memory, with so many classes in all so far."""
        kept_bytes = values * _BYTES_A_RANK
        limit = self.admission.limits.pixel_bytes
        if kept_bytes > limit:
            raise RequestTooLargeError(
                f"The answer has {kept_bytes} bytes of classes already; the limit is {limit}.",
                hint="Ask for fewer classes (top_k), or split the images over several requests.",
            )


def _not_finite(model: ReadyVersion, part: Part, rows: list[int]) -> dict[int, ImageError]:
    """Errors of the good images in these rows, by index in the request."""
    if not rows:
        return {}
    good = [i for i in range(part.start, part.start + part.count) if i not in part.errors]
    return {
        good[row]: NotFiniteError(
            f"The scores of model {model.name!r} for the image are not finite numbers.",
            hint="Leave the image out, or ask another model; where usual images fail so as well,"
            " the model is at fault.",
        )
        for row in rows
    }


def _raise_bad(errors: dict[int, ImageError], count: int) -> NoReturn:
    if count == 1:
        raise errors[0]
    raise InvalidImagesError(errors, of=count)

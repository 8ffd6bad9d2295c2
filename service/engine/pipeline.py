"""The way of a request's images through admission, decoding and the lanes, bit by bit."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np

from service.engine.admission import Admission
from service.engine.batcher import Flow, Served, Ticket
from service.engine.decoding import Decoding
from service.engine.errors import ImageError
from service.engine.images import Chunk, Images, ImageStream
from service.engine.lanes import Lanes
from service.engine.metrics import Account
from service.engine.repository import ReadyVersion

# Images of a large request that are decoded and queued together.
_CHUNK = 64
# A large request has so many batches in work a lane: one that runs, and one to go on with.
_BATCHES_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive images of a request, decoded.

    Attributes:
        start: Index in the request of the first.
        count: How many.
        errors: What is wrong with each bad one, by its index in the request.
        decode_s: Time that decoding took.
        ticket: The good ones, on their way through a lane; None where they are not run.
    """

    start: int
    count: int
    errors: dict[int, ImageError]
    decode_s: float
    ticket: Ticket | None


Keep = Callable[[Part, Served | None], Awaitable[None]]


@dataclass
class Progress:
    """A request on its way.

    Attributes:
        account: What became of its images.
        skip_errors: Bad images don't keep the good ones from being run.
        large: It takes its turns with the large ones.
        prompt: What is done is handed over although the next images have not come yet.
        count: Images so far.
        errors: What is wrong with each bad one, by its index.
    """

    account: Account
    skip_errors: bool
    large: bool
    prompt: bool = False
    count: int = 0
    errors: dict[int, ImageError] = field(default_factory=dict)
    in_work: deque[Part] = field(default_factory=deque)
    images_in_work: int = 0

    @property
    def failed(self) -> bool:
        """The rest is read only to say which others are bad."""
        return bool(self.errors) and not self.skip_errors


class Pipeline:
    """Leads images through; what is left behind by whoever stops waiting is taken out again."""

    def __init__(self, admission: Admission, decoding: Decoding, lanes: Lanes) -> None:
        """Lead through these."""
        self._admission = admission
        self._decoding = decoding
        self._lanes = lanes

    async def run_one(
        self, model: ReadyVersion, images: Chunk, account: Account
    ) -> tuple[Part, Served | None]:
        """Decode and run a single image, whose answer is None where it is bad."""
        size = model.metadata.input
        account.received = 1
        self._admission.enter(1, size.pixel_bytes)
        account.admitted = True
        try:
            started_s = time.perf_counter()
            pixels, errors = await self._decoding.pixels(images, size)
            decode_s = time.perf_counter() - started_s
            model.metrics.decoded(decode_s)
            if errors:
                account.bad = errors
                return Part(0, 1, errors, decode_s, None), None
            ticket = self._lanes.put(model.batcher, pixels, Flow())
            try:
                served = await ticket.answer
            finally:
                account.ran = 1 - self._lanes.withdraw(model.batcher, ticket)
        finally:
            self._admission.leave(1, size.pixel_bytes)
        return Part(0, 1, errors, decode_s, ticket), served

    def begin_many(
        self,
        model: ReadyVersion,
        images: Images,
        account: Account,
        *,
        skip_errors: bool,
        prompt: bool = False,
    ) -> Progress:
        """Begin the books of a request of several images."""
        count = None if isinstance(images, ImageStream) else len(images)
        large = count is None or count > model.batcher.plan.small_batch_size
        progress = Progress(account, skip_errors, large, prompt)
        account.bad = progress.errors
        account.received = count or 0
        return progress

    async def run_many(
        self, model: ReadyVersion, images: Images, progress: Progress, keep: Keep
    ) -> None:
        """Decode, queue and hand over bit by bit, so that only some images are in work at a time.

        Args:
            model: That shall answer.
            images: All at once or as a stream.
            progress: From ``begin_many``.
            keep: Awaited with every part, in order, and the outputs for its good images.
        """
        plan, flow = model.batcher.plan, Flow(large=progress.large)
        window = max(_CHUNK, _BATCHES_AHEAD * self._lanes.count * plan.batch_size)
        chunks = _chunks(images, self._chunk_size(model, images))
        if progress.prompt:
            chunks = _handing_over(chunks, progress, keep)
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if isinstance(images, ImageStream):
                        progress.account.received += len(chunk)
                    await self._begin(model, chunk, progress, flow)
                    while progress.images_in_work > window and not progress.failed:
                        await _end_one(progress, keep)
            while progress.in_work and not progress.failed:
                await _end_one(progress, keep)
        finally:
            for part in progress.in_work:
                if part.ticket is not None:
                    left = self._lanes.withdraw(model.batcher, part.ticket)
                    progress.account.ran += len(part.ticket.images) - left

    def _chunk_size(self, model: ReadyVersion, images: Images) -> int:
        limits = self._admission.limits
        in_memory = limits.pixel_bytes // model.metadata.input.pixel_bytes
        # Pixels that lie in memory anyway cost nothing more while they wait.
        wanted = 4 * _CHUNK if isinstance(images, np.ndarray) else _CHUNK
        return max(1, min(wanted, limits.images, in_memory))

    async def _begin(
        self, model: ReadyVersion, chunk: Chunk, progress: Progress, flow: Flow
    ) -> None:
        """Let some images in, decode and queue them."""
        size, count = model.metadata.input, len(chunk)
        if progress.count:
            await self._admission.enter_later(count, count * size.pixel_bytes)
        else:
            self._admission.enter(count, count * size.pixel_bytes)
            progress.account.admitted = True
        begun = 0
        try:
            started_s = time.perf_counter()
            pixels, found = await self._decoding.pixels(chunk, size)
            decode_s = time.perf_counter() - started_s
            model.metrics.decoded(decode_s)
            start = progress.count
            errors = {start + index: error for index, error in found.items()}
            progress.errors.update(errors)
            progress.count += count
            ticket = None
            if len(pixels) and not progress.failed:
                begun = len(pixels)
                ticket = self._lanes.put(model.batcher, pixels, flow)
                # When they are done and not when they are collected: this very request may wait
                # for their place.
                leaving = begun, begun * size.pixel_bytes
                ticket.answer.add_done_callback(lambda _: self._admission.leave(*leaving))
                progress.images_in_work += begun
            progress.in_work.append(Part(start, count, errors, decode_s, ticket))
        finally:
            left = count - begun
            if left:
                self._admission.leave(left, left * size.pixel_bytes)


async def _end_one(progress: Progress, keep: Keep) -> None:
    """Wait for the part that was queued first, and hand it over."""
    part, served = progress.in_work[0], None
    if part.ticket is not None:
        served = await part.ticket.answer
        progress.account.ran += len(part.ticket.images)
        progress.images_in_work -= len(part.ticket.images)
    progress.in_work.popleft()
    await keep(part, served)


async def _handing_over(
    chunks: AsyncGenerator[Chunk, None], progress: Progress, keep: Keep
) -> AsyncGenerator[Chunk, None]:
    """The same chunks; while the next is being waited for, parts that are done are handed over."""
    async with aclosing(chunks):
        while True:
            coming = asyncio.ensure_future(_next(chunks))
            try:
                while progress.in_work and not coming.done():
                    ticket = progress.in_work[0].ticket
                    if ticket is not None:
                        await asyncio.wait(
                            (coming, ticket.answer), return_when=asyncio.FIRST_COMPLETED
                        )
                        if not ticket.answer.done():
                            break
                    await _end_one(progress, keep)
                chunk = await coming
            finally:
                coming.cancel()
                await asyncio.wait((coming,))
            if chunk is None:
                return
            yield chunk


async def _next(chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
    return await anext(chunks, None)


async def _chunks(images: Images, size: int) -> AsyncGenerator[Chunk, None]:
    """Images in bits of at most ``size``."""
    if isinstance(images, ImageStream):
        async for chunk in images.chunks:
            for start in range(0, len(chunk), size):
                yield chunk[start : start + size]
        return
    for start in range(0, len(images), size):
        yield images[start : start + size]

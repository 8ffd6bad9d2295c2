"""Work-conserving dynamic batching in front of one session.

An idle session takes whatever waits at once; while it is busy, requests gather, up to
``max_batch_size`` images. Nothing ever waits for a timer. All state is touched on the event loop
only, so there are no locks; the runs themselves happen in a thread pool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.engine.session import Prediction


@dataclass(eq=False)
class _Ticket:
    """A request in the queue: its images, how many were handed out, and the parts that are done."""

    images: NDArray[np.uint8]
    answer: asyncio.Future[Prediction]
    handed_out: int = 0
    done: int = 0
    parts: dict[int, Prediction] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        return len(self.images) - self.handed_out


@dataclass(frozen=True)
class _Slice:
    """Images ``start`` to ``stop`` of a ticket, as a part of one batch."""

    ticket: _Ticket
    start: int
    stop: int


class Batcher:
    """Gathers the images of many requests into batches and hands every request its own answers."""

    def __init__(
        self,
        run: Callable[[NDArray[np.uint8]], Prediction],
        pool: Executor,
        max_batch_size: int,
    ) -> None:
        """Batch calls of ``run``, made in ``pool``, one at a time."""
        self._run = run
        self._pool = pool
        self._max_batch_size = max_batch_size
        self._queue: deque[_Ticket] = deque()
        self._busy = False

    @property
    def waiting(self) -> int:
        """Images that no batch has taken yet."""
        return sum(ticket.waiting for ticket in self._queue)

    async def submit(self, images: NDArray[np.uint8]) -> Prediction:
        """Queue images and wait for their answers.

        A caller that is cancelled leaves the queue: its images that have not run never will.

        Args:
            images: uint8 [N, H, W, 3], N >= 1; more than a batch holds are split over several.

        Returns:
            Outputs for the N images, in their order.

        Raises:
            InferenceError: The session failed on a batch with some of these images.
        """
        ticket = _Ticket(images, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._start_next()
        try:
            return await ticket.answer
        finally:
            self._leave(ticket)

    def _leave(self, ticket: _Ticket) -> None:
        # A ticket is in the queue for as long as it has images that were not handed out.
        if ticket.waiting:
            self._queue.remove(ticket)
            ticket.handed_out = len(ticket.images)

    def _start_next(self) -> None:
        if self._busy or not self._queue:
            return
        self._busy = True
        slices = self._next_batch()
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._run_slices, slices)
        future.add_done_callback(lambda done: self._finish(slices, done))

    def _next_batch(self) -> list[_Slice]:
        """Take images in turns: a request that doesn't fit goes on at the end of the queue."""
        room = self._max_batch_size
        slices: list[_Slice] = []
        while room and self._queue:
            # Everyone who waits gets a share first, so that a large request can't starve others;
            # what the small ones leave over is shared out again.
            share = max(1, room // len(self._queue))
            for _ in range(min(room, len(self._queue))):
                ticket = self._queue.popleft()
                start = ticket.handed_out
                ticket.handed_out += min(ticket.waiting, share)
                slices.append(_Slice(ticket, start, ticket.handed_out))
                room -= ticket.handed_out - start
                if ticket.waiting:
                    self._queue.append(ticket)
        return slices

    def _run_slices(self, slices: list[_Slice]) -> Prediction:
        parts = [piece.ticket.images[piece.start : piece.stop] for piece in slices]
        return self._run(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _finish(self, slices: list[_Slice], done: asyncio.Future[Prediction]) -> None:
        self._busy = False
        error = done.exception()
        if error is not None:
            for piece in slices:
                self._leave(piece.ticket)
        # The next batch begins before this one's answers are handed out.
        self._start_next()
        row = 0
        for piece in slices:
            count = piece.stop - piece.start
            if piece.ticket.answer.done():
                pass  # its caller left while the batch ran
            elif error is not None:
                piece.ticket.answer.set_exception(error)
            else:
                _deliver(piece, done.result(), row)
            row += count


def _deliver(piece: _Slice, batch: Prediction, row: int) -> None:
    ticket, count = piece.ticket, piece.stop - piece.start
    rows = slice(row, row + count)
    ticket.parts[piece.start] = Prediction(batch.logits[rows], batch.probabilities[rows])
    ticket.done += count
    if ticket.done < len(ticket.images):
        return
    parts = [part for _, part in sorted(ticket.parts.items())]
    if len(parts) == 1:
        ticket.answer.set_result(parts[0])
    else:
        logits = np.concatenate([part.logits for part in parts])
        probabilities = np.concatenate([part.probabilities for part in parts])
        ticket.answer.set_result(Prediction(logits, probabilities))

"""Work-conserving dynamic batching: which images run next, and whose answer is whose.

An idle lane takes what waits at once; while all are busy, requests gather. Only somebody who asks
for ``max_queue_delay_s`` ever waits for a timer. Requests take turns, so that one with thousands
of images holds nobody else up (docs/engine.md has the reasons). Everything here that lanes and
the event loop both touch is touched under the lanes' lock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from service.engine.errors import RunTimedOutError
from service.engine.halving import run_or_halve
from service.engine.images import Pixels
from service.engine.metrics import VersionMetrics
from service.engine.session import Prediction
from service.engine.spans import Run, Spans

# So long after a small request, large ones still run in small batches: the next is likely to come.
_SMALL_AGAIN_S = 0.5


@dataclass(frozen=True)
class BatchPlan:
    """How the images of one model are cut into batches; ``service.engine.plan`` measures it.

    Attributes:
        batch_size: Images of a run of a large request, with no small ones about.
        small_batch_size: Images of any other run: hardly dearer, and sooner over.
        wide_up_to: So many images, with nobody else at work, run on all threads at once.
        spread: Idle lanes share what waits; else the first takes as much as it can.
        max_queue_delay_s: How long images may wait for their batch to fill.
    """

    batch_size: int
    small_batch_size: int
    wide_up_to: int = 0
    spread: bool = True
    max_queue_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of images on their way through the engine.

    Attributes:
        batch_size: Images of the run that they were part of; the largest, if of several.
        queue_s: Time until the first of them was taken.
        run_s: Time of their run; the sum, if of several.
    """

    batch_size: int
    queue_s: float
    run_s: float

    @classmethod
    def joined(cls, parts: list[Receipt]) -> Receipt:
        """That of images whose parts have these."""
        return cls(
            max(part.batch_size for part in parts),
            min(part.queue_s for part in parts),
            sum(part.run_s for part in parts),
        )


@dataclass(frozen=True, slots=True)
class Served:
    """Outputs for the images of one ticket, in their order, and how they came about."""

    prediction: Prediction
    receipt: Receipt


@dataclass(eq=False, slots=True)
class Flow:
    """The tickets of one request. Flows take turns, however many images each has.

    Attributes:
        large: It has more images than a small batch.
    """

    large: bool = False
    tickets: deque[Ticket] = field(default_factory=deque)
    queued: bool = False


@dataclass(eq=False, slots=True)
class Ticket:
    """Images that are answered together; ``handed_out`` is written under the lock."""

    images: Pixels
    answer: asyncio.Future[Served]
    flow: Flow
    submitted_s: float
    spans: Spans | None = None
    handed_out: int = 0
    done: int = 0
    # Of each batch that had some of them. Not the batch itself: a circle would keep the pixels, and
    # a model that is gone, until the garbage collector comes by.
    parts: list[tuple[int, Prediction, Receipt]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Slice:
    """Images ``start`` to ``stop`` of a ticket, as a part of one batch."""

    ticket: Ticket
    start: int
    stop: int


@dataclass(eq=False, slots=True)
class Batch:
    """What one run takes, and after it what came out."""

    owner: Batcher
    slices: list[_Slice]
    size: int
    wide: bool
    taken_s: float
    began_s: float = 0.0
    run_s: float = 0.0
    prediction: Prediction | None = None
    error: Exception | None = None
    # Written under the lock, by who looks for runs that hang:
    interrupted_s: float | None = None
    given_up: bool = False

    def run(self, lane: int) -> None:
        """Run it; in the lane's thread."""
        owner, wide = self.owner, self.wide
        self.began_s = time.perf_counter()
        try:
            parts = [piece.ticket.images[piece.start : piece.stop] for piece in self.slices]
            images = parts[0] if len(parts) == 1 else np.concatenate(parts)
            self.prediction = run_or_halve(
                lambda some: owner.run(some, lane, wide), images, owner.on_split
            )
        except Exception as error:  # it belongs to those who wait for this batch
            self.error = error if self.interrupted_s is None else self.timed_out()
        self.run_s = time.perf_counter() - self.began_s

    def count_predictions(self) -> None:
        """Count what came out; in the lane's thread, for with many classes it takes a while."""
        if self.prediction is not None and self.owner.metrics is not None:
            self.owner.metrics.predictions.add(self.prediction.probabilities)

    def timed_out(self) -> RunTimedOutError:
        """What is said to those who wait for it when it has taken too long."""
        return RunTimedOutError(
            f"A run of {self.size} images took too long and was given up.",
            hint="Send the images one by one to find out whether one of them is the cause;"
            " run_timeout_s says how long a run may take.",
        )

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where its answers are awaited."""
        return self.slices[0].ticket.answer.get_loop()


class Batcher:
    """The queue of one model."""

    def __init__(
        self,
        run: Callable[[Pixels, int, bool], Prediction],
        plan: BatchPlan,
        metrics: VersionMetrics | None = None,
        *,
        replaceable: bool = True,
    ) -> None:
        """Batch for ``run``, which takes images, the number of the lane, and "on all threads".

        ``replaceable`` says that a lane can run although another one hangs in the same session.
        """
        self.run = run
        self.plan = plan
        self.metrics = metrics
        self.replaceable = replaceable
        self.waiting = 0
        self._small: deque[Flow] = deque()
        self._large: deque[Flow] = deque()
        self._small_first = 0  # so many small flows go before a large one has its next turn
        self._last_small_s = float("-inf")

    def add(self, ticket: Ticket) -> None:
        """Queue a ticket. Under the lock."""
        flow = ticket.flow
        flow.tickets.append(ticket)
        if not flow.queued:
            flow.queued = True
            (self._large if flow.large else self._small).append(flow)
        self.waiting += len(ticket.images)
        if not flow.large:
            self._last_small_s = ticket.submitted_s

    def remove(self, ticket: Ticket) -> int:
        """Take out of the queue what was not handed out yet; says how much. Under the lock."""
        left = len(ticket.images) - ticket.handed_out
        if not left:
            return 0
        ticket.handed_out = len(ticket.images)
        flow = ticket.flow
        flow.tickets.remove(ticket)
        if not flow.tickets:
            flow.queued = False
            (self._large if flow.large else self._small).remove(flow)
        self.waiting -= left
        return left

    def wait_s(self, now_s: float) -> float:
        """How long what waits shall still gather; 0 when a batch may begin. Under the lock."""
        delay_s = self.plan.max_queue_delay_s
        full = self.plan.small_batch_size if self._small else self.plan.batch_size
        if not delay_s or self.waiting >= full:
            return 0.0
        oldest_s = min(queue[0].tickets[0].submitted_s for queue in self._queues())
        return max(0.0, oldest_s + delay_s - now_s)

    def take(self, idle_lanes: int, *, alone: bool) -> Batch:
        """Form the next batch of what waits, at least one image. Under the lock.

        Args:
            idle_lanes: Lanes with nothing to do, the one that takes included.
            alone: Nothing runs in any other lane, nor has of late.
        """
        plan, now_s = self.plan, time.perf_counter()
        if alone and self.waiting <= plan.wide_up_to:
            return self._batch(self._queues(), self.waiting, now_s, wide=True)
        share = -(-self.waiting // idle_lanes) if plan.spread else self.waiting
        if self._small and (self._small_first > 0 or not self._large):
            return self._batch([self._small], min(plan.small_batch_size, share), now_s)
        self._small_first = max(1, len(self._small))
        alternating = now_s - self._last_small_s < _SMALL_AGAIN_S
        limit = plan.small_batch_size if alternating else plan.batch_size
        return self._batch([self._large], min(limit, share), now_s)

    def on_split(self) -> None:
        """A batch was cut in two for want of memory. In the lane's thread."""
        if self.metrics is not None:
            self.metrics.split()

    def _queues(self) -> list[deque[Flow]]:
        return [queue for queue in (self._small, self._large) if queue]

    def _batch(
        self, queues: list[deque[Flow]], size: int, now_s: float, *, wide: bool = False
    ) -> Batch:
        """Take up to ``size`` images of flows in turns.

        A large flow that has more goes on at the end of its queue; a small one stays the first.
        """
        room, slices = size, list[_Slice]()
        for queue in queues:
            while room and queue:
                flow = queue.popleft()
                room -= _take_from(flow, room, slices)
                self._small_first -= not flow.large
                if not flow.tickets:
                    flow.queued = False
                elif flow.large:
                    queue.append(flow)
                else:
                    queue.appendleft(flow)
        taken = size - room
        self.waiting -= taken
        return Batch(self, slices, taken, wide, now_s)


def _take_from(flow: Flow, count: int, slices: list[_Slice]) -> int:
    """Hand out up to ``count`` images of a flow; says how many."""
    left = count
    while left and flow.tickets:
        ticket = flow.tickets[0]
        start = ticket.handed_out
        ticket.handed_out = min(start + left, len(ticket.images))
        slices.append(_Slice(ticket, start, ticket.handed_out))
        left -= ticket.handed_out - start
        if ticket.handed_out == len(ticket.images):
            flow.tickets.popleft()
    return count - left


def deliver(batch: Batch) -> None:
    """Give everybody in a batch that has run their own answers. On the event loop."""
    if batch.owner.metrics is not None:
        wait_s = batch.taken_s - batch.slices[0].ticket.submitted_s
        batch.owner.metrics.batch(batch.size, wait_s, batch.run_s)
    row = 0
    traced = False
    for piece in batch.slices:
        count = piece.stop - piece.start
        ticket = piece.ticket
        if ticket.spans is not None:
            traced = True
        if ticket.answer.done():
            pass  # its caller left while the batch ran
        elif batch.error is not None:
            ticket.answer.set_exception(batch.error)
        else:
            assert batch.prediction is not None
            rows = slice(row, row + count)
            part = Prediction(batch.prediction.logits[rows], batch.prediction.probabilities[rows])
            ticket.done += count
            if count == len(ticket.images):
                ticket.answer.set_result(Served(part, _receipt(ticket, batch)))
            else:
                ticket.parts.append((piece.start, part, _receipt(ticket, batch)))
                if ticket.done == len(ticket.images):
                    ticket.answer.set_result(_joined(ticket))
        row += count
    if traced and not batch.given_up:
        _trace(batch)


def give_up(batch: Batch) -> None:
    """Tell everybody in a batch that hangs. On the event loop."""
    for piece in batch.slices:
        if not piece.ticket.answer.done():
            piece.ticket.answer.set_exception(batch.timed_out())
    _trace(batch)


def _trace(batch: Batch) -> None:
    """Tell the requests in it that are traced."""
    queued: dict[Spans, float] = {}  # a request may have several tickets in a batch
    for piece in batch.slices:
        if piece.ticket.spans is not None:
            queued.setdefault(piece.ticket.spans, piece.ticket.submitted_s)
    if not queued:
        return
    error = batch.error or (batch.timed_out() if batch.given_up else None)
    ended_s = batch.began_s + batch.run_s if batch.run_s else time.perf_counter()
    model, version = batch.owner.metrics.labels if batch.owner.metrics else ("", "")
    run = Run(
        model,
        version,
        batch.size,
        batch.taken_s,
        batch.began_s or batch.taken_s,
        ended_s,
        getattr(error, "code", type(error).__name__) if error else None,
    )
    shared = next(iter(queued)).batch(run, list(queued))
    for spans, queued_s in queued.items():
        spans.ran(run, queued_s, shared)


def _joined(ticket: Ticket) -> Served:
    ticket.parts.sort(key=lambda part: part[0])
    prediction = Prediction(
        np.concatenate([part.logits for _, part, _ in ticket.parts]),
        np.concatenate([part.probabilities for _, part, _ in ticket.parts]),
    )
    return Served(prediction, Receipt.joined([receipt for _, _, receipt in ticket.parts]))


def _receipt(ticket: Ticket, batch: Batch) -> Receipt:
    return Receipt(batch.size, batch.taken_s - ticket.submitted_s, batch.run_s)

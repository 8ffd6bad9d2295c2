"""The threads that run batches: so many at once, whichever models they are for.

A lane that has finished takes its next batch by itself, without a detour over the event loop, so
that it never stands still while images wait. Models take turns.

A run that takes too long is interrupted. One that can't be is given up: those who wait for it are
told, and another thread takes its lane, while the one that hangs is left alone until it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque

from service.engine.batcher import Batch, Batcher, Flow, Ticket, deliver, give_up
from service.engine.errors import DeviceLostError
from service.engine.images import Pixels
from service.engine.interrupt import Interrupt
from service.engine.spans import SPANS

# So long after requests have met, all lanes are kept free for the next of them.
_CROWD_S = 0.05
_LOOK_S = 1.0  # between looks for runs that hang
# So long an interrupted run has to end: it does so behind the operator that it is at.
_INTERRUPT_S = 2.0
_logger = logging.getLogger(__name__)


class Lanes:
    """A fixed number of threads, each of which runs one batch at a time.

    Attributes:
        count: How many.
        idle: Numbers of those that have nothing to do.
        lost: Threads that hang in a run that was given up; others have their lanes.
    """

    def __init__(self, count: int, run_timeout_s: float = 0.0) -> None:
        """Start the threads; they end with ``close``, and never hold up the process's end.

        Args:
            count: How many.
            run_timeout_s: A run that takes longer is ended, or given up; 0: never.
        """
        self.count = count
        self.lost = 0
        self._run_timeout_s = run_timeout_s
        self._lock = threading.Lock()
        self._mail: list[queue.SimpleQueue[Batch | None]] = [
            queue.SimpleQueue() for _ in range(count)
        ]
        self.idle = list(range(count))
        self._waiting: deque[Batcher] = deque()  # each once, in turn
        self._wide = False  # one batch has the threads of all
        self._met_s = float("-inf")  # when a request last found others at work
        self._closed = threading.Event()
        self._running: list[Batch | None] = [None] * count
        self._interrupts = [Interrupt() for _ in range(count)]
        self._broken: str | None = None
        for lane in range(count):
            self._start(lane)
        if run_timeout_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @property
    def ailment(self) -> str | None:
        """Why this process can't run networks any more, or hardly; None: it can."""
        if self._broken is not None:
            return self._broken
        # Each goes on taking a processor from the others.
        if self.lost >= max(2, self.count):
            return f"{self.lost} runs hang"
        return None

    def put(self, batcher: Batcher, images: Pixels, flow: Flow) -> Ticket:
        """Queue some images of a request; on the event loop.

        Args:
            batcher: The queue of the model that shall answer.
            images: uint8 [N, H, W, 3], N >= 1; more than a batch holds are split over several.
            flow: The request, with which they take turns.

        Returns:
            A ticket with their answer to come. Who stops waiting for it must withdraw it.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(images, loop.create_future(), flow, time.perf_counter(), SPANS.get())
        with self._lock:
            if len(self.idle) < self.count:
                self._met_s = ticket.submitted_s
            if not batcher.waiting:
                self._waiting.append(batcher)
            batcher.add(ticket)
            self._hand_out()
        if batcher.plan.max_queue_delay_s:
            loop.call_later(batcher.plan.max_queue_delay_s, self._look_again, batcher)
        return ticket

    def withdraw(self, batcher: Batcher, ticket: Ticket) -> int:
        """Take out of the queue what of a ticket has not begun to run; says how many images."""
        ticket.answer.cancel()
        if ticket.handed_out == len(ticket.images):
            return 0
        with self._lock:
            left = batcher.remove(ticket)
            if not batcher.waiting and batcher in self._waiting:
                self._waiting.remove(batcher)
        return left

    def close(self) -> None:
        """Let the threads end once what they run is done; nothing more is begun."""
        with self._lock:
            self._closed.set()
        for mail in self._mail:
            mail.put(None)

    def _look_again(self, batcher: Batcher) -> None:
        """Hand out what has waited long enough for its batch to fill."""
        with self._lock:
            self._hand_out()
            wait_s = batcher.wait_s(time.perf_counter()) if batcher.waiting else 0.0
        if wait_s:
            # Timers are of milliseconds and may be early: nobody else would look again.
            asyncio.get_running_loop().call_later(wait_s + 1e-3, self._look_again, batcher)

    def _hand_out(self) -> None:
        """Give idle lanes what waits. Under the lock."""
        while self.idle:
            batch = self._next(len(self.idle))
            if batch is None:
                return
            self._mail[self.idle.pop()].put(batch)

    def _next(self, idle: int) -> Batch | None:
        """The next batch for one of so many idle lanes. Under the lock."""
        if self._wide or self._closed.is_set():
            return None
        now_s = time.perf_counter()
        for _ in range(len(self._waiting)):
            batcher = self._waiting.popleft()
            if batcher.wait_s(now_s):
                self._waiting.append(batcher)
                continue
            alone = idle == self.count and now_s - self._met_s > _CROWD_S
            batch = batcher.take(idle, alone=alone)
            if batcher.waiting:
                self._waiting.append(batcher)
            self._wide = batch.wide
            return batch
        return None

    def _start(self, lane: int) -> None:
        work = threading.Thread(
            target=self._work, args=(lane, self._mail[lane]), name=f"lane-{lane}", daemon=True
        )
        work.start()

    def _work(self, lane: int, mail: queue.SimpleQueue[Batch | None]) -> None:
        """What a thread does all its life."""
        self._interrupts[lane].adopt_thread()
        batch: Batch | None = None
        while True:
            batch = batch or mail.get()
            if batch is None:
                return
            self._running[lane] = batch
            batch.run(lane)
            if isinstance(batch.error, DeviceLostError):
                self._broken = batch.error.detail
            # Nobody waits any more where the loop is closed.
            with contextlib.suppress(RuntimeError):
                batch.loop.call_soon_threadsafe(deliver, batch)
            batch.count_predictions()
            # The last batch is let go: it would keep its pixels, and a model that is gone.
            replaced, batch = self._after(lane, batch)
            if replaced:
                _logger.warning("a run that was given up has come back")
                return

    def _after(self, lane: int, done: Batch) -> tuple[bool, Batch | None]:
        """Free the lane; says whether another thread has it, and what comes next if not."""
        with self._lock:
            if done.given_up:
                self.lost -= 1
                return True, None
            self._running[lane] = None
            if done.interrupted_s is not None:
                self._interrupts[lane] = Interrupt()
                self._interrupts[lane].adopt_thread()
            if done.wide:
                self._wide = False
            batch = self._next(len(self.idle) + 1)
            if batch is None:
                self.idle.append(lane)
            self._hand_out()
            return False, batch

    def _watch(self) -> None:
        """What the watchdog does all its life."""
        every_s = min(_LOOK_S, self._run_timeout_s / 2)
        while not self._closed.wait(every_s):
            for lane in range(self.count):
                self._look_at(lane, time.perf_counter())

    def _look_at(self, lane: int, now_s: float) -> None:
        """Interrupt a run that takes too long; give it up if that was of no use."""
        batch = self._running[lane]
        if batch is None or now_s - batch.taken_s < self._run_timeout_s:
            return
        with self._lock:
            if self._running[lane] is not batch:
                return  # it has just ended
            hopeless = batch.interrupted_s is not None
            if hopeless and now_s - (batch.interrupted_s or 0) < _INTERRUPT_S:
                return
            # Counted before anybody is told.
            if batch.owner.metrics is not None:
                batch.owner.metrics.timed_out("given_up" if hopeless else "interrupted")
            if hopeless:
                self._replace(lane, batch)
            else:
                batch.interrupted_s = now_s
                self._interrupts[lane].end_run()
        _report(batch, now_s)

    def _replace(self, lane: int, hung: Batch) -> None:
        """Give a thread up and start another one for its lane. Under the lock."""
        hung.given_up = True
        self.lost += 1
        self._running[lane] = None
        self._mail[lane] = queue.SimpleQueue()
        self._interrupts[lane] = Interrupt()
        if hung.wide:
            self._wide = False
        if not hung.owner.replaceable:
            self._broken = "a run hangs in a session that can't run anything else meanwhile"
        else:
            try:
                self._start(lane)
            except RuntimeError as error:
                self._broken = f"a run hangs, and its thread can't be replaced: {error}"
            else:
                self.idle.append(lane)
                self._hand_out()
        # Last, for who is told may ask how the lanes are.
        with contextlib.suppress(RuntimeError):
            hung.loop.call_soon_threadsafe(give_up, hung)


def _report(batch: Batch, now_s: float) -> None:
    model, version = batch.owner.metrics.labels if batch.owner.metrics else ("", "")
    _logger.log(
        logging.ERROR if batch.given_up else logging.WARNING,
        "model %s version %s: a run of %d images takes more than %.1f s; it is %s",
        model,
        version,
        batch.size,
        now_s - batch.taken_s,
        "given up, and another instance takes its place" if batch.given_up else "interrupted",
    )

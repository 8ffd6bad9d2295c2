"""The threads that run batches: so many at once, whichever models they are for.

A lane that has finished takes its next batch by itself, without a detour over the event loop, so
that it never stands still while images wait. Models take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque

from service.engine.batcher import Batch, Batcher, Flow, Ticket, deliver
from service.engine.images import Pixels

# So long after requests have met, all lanes are kept free for the next of them.
_CROWD_S = 0.05


class Lanes:
    """A fixed number of threads, each of which runs one batch at a time.

    Attributes:
        count: How many.
        idle: Numbers of those that have nothing to do.
    """

    def __init__(self, count: int) -> None:
        """Start the threads; they end with ``close``, and never hold up the process's end."""
        self.count = count
        self._lock = threading.Lock()
        self._mail: list[queue.SimpleQueue[Batch | None]] = [
            queue.SimpleQueue() for _ in range(count)
        ]
        self.idle = list(range(count))
        self._waiting: deque[Batcher] = deque()  # each once, in turn
        self._wide = False  # one batch has the threads of all
        self._met_s = float("-inf")  # when a request last found others at work
        self._closed = False
        for lane in range(count):
            threading.Thread(
                target=self._work, args=(lane,), name=f"lane-{lane}", daemon=True
            ).start()

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
        ticket = Ticket(images, loop.create_future(), flow, time.perf_counter())
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
            self._closed = True
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
        if self._wide or self._closed:
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

    def _work(self, lane: int) -> None:
        """What a thread does all its life."""
        batch: Batch | None = None
        while True:
            batch = batch or self._mail[lane].get()
            if batch is None:
                return
            batch.run(lane)
            # Nobody waits any more where the loop is closed.
            with contextlib.suppress(RuntimeError):
                batch.loop.call_soon_threadsafe(deliver, batch)
            batch = self._after(lane, batch)

    def _after(self, lane: int, done: Batch) -> Batch | None:
        """Free the lane and take what comes next, if anything waits."""
        with self._lock:
            if done.wide:
                self._wide = False
            batch = self._next(len(self.idle) + 1)
            if batch is None:
                self.idle.append(lane)
            self._hand_out()
            return batch

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import numpy as np

from service.engine.batcher import Batcher, Flow, Served
from service.engine.errors import InferenceError
from service.engine.lanes import Lanes
from service.engine.session import Prediction


@dataclass
class Running:
    """A run that waits for the test to end it."""

    numbers: list[int]
    lane: int
    wide: bool
    may_end: threading.Event = field(default_factory=threading.Event)
    failing: bool = False


class Turnstile:
    """Stands where a session's run stands: each run ends when the test says so.

    It answers an image with its number, which is its four bytes of pixels.
    """

    def __init__(self) -> None:
        self.running: list[Running] = []
        self.begun: list[list[int]] = []
        self.open = False

    def __call__(self, images: np.ndarray, lane: int, wide: bool) -> Prediction:
        values = np.ascontiguousarray(images).view(np.uint32).reshape(-1)
        run = Running(values.tolist(), lane, wide)
        self.begun.append(run.numbers)
        self.running.append(run)
        if not self.open:
            assert run.may_end.wait(20)
        self.running.remove(run)
        if run.failing:
            raise InferenceError("no", hint="none")
        return Prediction(values[:, None].astype(np.float32), values[:, None] + np.float32(0.5))

    def end(self, run: Running, *, failing: bool = False) -> None:
        run.failing = failing
        run.may_end.set()

    def settle(self, lanes: Lanes) -> None:
        """Wait until every lane either has nothing to do or waits for the test."""
        until = time.monotonic() + 20
        while len(lanes.idle) + sum(not run.may_end.is_set() for run in self.running) < lanes.count:
            assert time.monotonic() < until
            time.sleep(0.0002)


def numbered(*numbers: int) -> np.ndarray:
    """Images that carry these numbers, uint8 [N, 1, 1, 4]."""
    return np.array(numbers, np.uint32).view(np.uint8).reshape(-1, 1, 1, 4)


async def submit(
    lanes: Lanes, batcher: Batcher, images: np.ndarray, flow: Flow | None = None
) -> Served:
    """Queue images and wait for their answers; who is cancelled withdraws them."""
    flow = flow or Flow(large=len(images) > batcher.plan.small_batch_size)
    ticket = lanes.put(batcher, images, flow)
    try:
        return await ticket.answer
    finally:
        lanes.withdraw(batcher, ticket)

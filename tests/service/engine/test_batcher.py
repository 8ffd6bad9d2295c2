from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.engine.batcher import Batcher
from service.engine.errors import InferenceError
from service.engine.session import Prediction


class Echo:
    """Stands where a session's run stands; answers each image with its first value."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failing = False

    def __call__(self, images: np.ndarray) -> Prediction:
        assert self.gate.wait(10)
        values = images[:, 0, 0, 0].astype(np.float32)
        self.batches.append(values.astype(int).tolist())
        if self.failing:
            raise InferenceError("no", hint="none")
        return Prediction(values[:, None], values[:, None] + 0.5)


def images(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as executor:
        yield executor


def test_a_single_request_runs_at_once(pool):
    async def scenario() -> None:
        echo = Echo()
        answer = await Batcher(echo, pool, 4).submit(images(3))
        assert answer.logits.tolist() == [[3]]
        assert echo.batches == [[3]]

    asyncio.run(scenario())


def test_requests_gather_while_the_session_is_busy(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.gate.clear()
        batcher = Batcher(echo, pool, 4)
        waiting = [asyncio.create_task(batcher.submit(images(n))) for n in range(6)]
        await asyncio.sleep(0.05)
        assert batcher.waiting == 5
        echo.gate.set()
        answers = await asyncio.gather(*waiting)
        assert [a.logits.item() for a in answers] == list(range(6))
        assert [len(batch) for batch in echo.batches] == [1, 4, 1]

    asyncio.run(scenario())


def test_a_large_request_does_not_starve_a_small_one(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.gate.clear()
        batcher = Batcher(echo, pool, 4)
        tasks = []
        for values in ((100,), range(20), (200,)):
            tasks.append(asyncio.create_task(batcher.submit(images(*values))))
            await asyncio.sleep(0)
        echo.gate.set()
        await asyncio.gather(*tasks)
        # In the first batch after it came, beside the large one, and the batch is full.
        assert 200 in echo.batches[1]
        assert len(echo.batches[1]) == 4

    asyncio.run(scenario())


def test_who_leaves_is_never_run(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.gate.clear()
        batcher = Batcher(echo, pool, 4)
        running = asyncio.create_task(batcher.submit(images(1)))
        await asyncio.sleep(0)
        leaving = asyncio.create_task(batcher.submit(images(*range(2, 99))))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 0
        echo.gate.set()
        await running
        assert (await batcher.submit(images(4))).logits.item() == 4
        assert echo.batches == [[1], [4]]

    asyncio.run(scenario())


def test_a_failing_run_fails_its_requests_and_no_later_one(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.failing = True
        batcher = Batcher(echo, pool, 2)
        with pytest.raises(InferenceError):
            await batcher.submit(images(*range(5)))
        assert batcher.waiting == 0
        echo.failing = False
        assert (await batcher.submit(images(6))).logits.item() == 6
        assert echo.batches == [[0, 1], [6]]

    asyncio.run(scenario())


class Traffic(RuleBasedStateMachine):
    """Requests come, leave and are answered in any order; runs succeed or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.pool = HandCranked()
        self.batcher = Batcher(self.run, self.pool, 5)
        self.failing = False
        self.number = 0
        self.taken: list[int] = []
        self.gone: set[int] = set()
        self.open: dict[asyncio.Task[Prediction], list[int]] = {}

    def run(self, batch: np.ndarray) -> Prediction:
        assert 1 <= len(batch) <= 5
        values = batch.view(np.uint32).reshape(-1)
        self.taken += values.tolist()
        if self.failing:
            raise InferenceError("no", hint="none")
        return Prediction(values[:, None].astype(np.float32), values[:, None].astype(np.float32))

    def spin(self) -> None:
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule(count=st.integers(1, 13))
    def come(self, count: int) -> None:
        numbers = list(range(self.number, self.number + count))
        self.number += count
        pixels = np.array(numbers, np.uint32).view(np.uint8).reshape(count, 1, 1, 4)
        self.open[self.loop.create_task(self.batcher.submit(pixels))] = numbers
        self.spin()

    @rule(pick=st.integers(0, 99))
    def leave(self, pick: int) -> None:
        if self.open:
            task = list(self.open)[pick % len(self.open)]
            numbers = self.open.pop(task)
            before = set(self.taken) | set(self.pool.pending_values())
            task.cancel()
            self.spin()
            self.gone |= set(numbers) - before

    @rule(failing=st.booleans())
    def finish_a_run(self, failing: bool) -> None:
        self.failing = failing
        if self.pool.crank(self.loop):
            self.spin()

    @invariant()
    def answers_are_right_and_nothing_is_lost(self) -> None:
        for task in [task for task in self.open if task.done()]:
            numbers = self.open.pop(task)
            if isinstance(task.exception(), InferenceError):
                continue
            assert task.result().logits[:, 0].tolist() == numbers
        # Whoever left while waiting is never run, and holds no place.
        assert not set(self.taken) & self.gone
        assert len(self.taken) == len(set(self.taken))
        assert self.batcher.waiting <= sum(len(numbers) for numbers in self.open.values())
        # Work-conserving: nobody waits while nothing runs.
        assert self.pool.pending or not self.batcher.waiting

    def teardown(self) -> None:
        self.failing = False
        while self.pool.crank(self.loop):
            self.spin()
        assert self.batcher.waiting == 0
        self.answers_are_right_and_nothing_is_lost()
        assert not self.open
        self.loop.close()


class HandCranked(Executor):
    """An executor that runs a call when the test says so."""

    def __init__(self) -> None:
        self.pending: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn, /, *args, **kwargs):
        future: Future[Any] = Future()
        self.pending.append((future, fn, args))
        return future

    def pending_values(self) -> list[int]:
        """Numbers of the images in calls that wait to be run."""
        return [
            int(value)
            for _, _, (slices,) in self.pending
            for piece in slices
            for value in piece.ticket.images[piece.start : piece.stop].view(np.uint32).reshape(-1)
        ]

    def crank(self, loop: asyncio.AbstractEventLoop) -> bool:
        if not self.pending:
            return False
        future, fn, args = self.pending.pop(0)
        try:
            future.set_result(fn(*args))
        except InferenceError as error:
            future.set_exception(error)
        return True


Traffic.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
test_traffic = Traffic.TestCase

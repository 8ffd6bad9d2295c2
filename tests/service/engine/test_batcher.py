from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batcher import Batcher, BatcherOptions
from service.engine.errors import DeadlineExceededError, InferenceError, QueueFullError
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
        batcher = Batcher("m", echo, pool, BatcherOptions(4, 8))
        answer = await batcher.submit(images(3), 5)
        assert answer.logits.tolist() == [[3]]
        assert echo.batches == [[3]]

    asyncio.run(scenario())


def test_requests_gather_while_the_session_is_busy(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.gate.clear()
        batcher = Batcher("m", echo, pool, BatcherOptions(4, 99))
        waiting = [asyncio.create_task(batcher.submit(images(n), 5)) for n in range(6)]
        await asyncio.sleep(0.05)
        echo.gate.set()
        answers = await asyncio.gather(*waiting)
        assert [a.logits.item() for a in answers] == list(range(6))
        assert [len(batch) for batch in echo.batches] == [1, 4, 1]

    asyncio.run(scenario())


def test_a_large_request_does_not_starve_a_small_one(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.gate.clear()
        batcher = Batcher("m", echo, pool, BatcherOptions(4, 99))
        first = asyncio.create_task(batcher.submit(images(100), 5))
        await asyncio.sleep(0)
        large = asyncio.create_task(batcher.submit(images(*range(20)), 5))
        await asyncio.sleep(0)
        small = asyncio.create_task(batcher.submit(images(200), 5))
        await asyncio.sleep(0.05)
        echo.gate.set()
        await asyncio.gather(first, large, small)
        # In the first batch after it came, beside the large one, and the batch is full.
        assert 200 in echo.batches[1]
        assert len(echo.batches[1]) == 4

    asyncio.run(scenario())


def test_a_full_queue_refuses_but_an_empty_one_takes_any_size(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.gate.clear()
        batcher = Batcher("m", echo, pool, BatcherOptions(2, 3))
        large = asyncio.create_task(batcher.submit(images(*range(9)), 5))
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFullError, match="7 images waiting; the limit is 3"):
            await batcher.submit(images(1), 5)
        echo.gate.set()
        assert (await large).logits[:, 0].tolist() == list(range(9))

    asyncio.run(scenario())


def test_who_waits_too_long_or_leaves_is_never_run(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.gate.clear()
        batcher = Batcher("m", echo, pool, BatcherOptions(4, 99))
        running = asyncio.create_task(batcher.submit(images(1), 5))
        await asyncio.sleep(0)
        leaving = asyncio.create_task(batcher.submit(images(2), 5))
        with pytest.raises(DeadlineExceededError):
            await batcher.submit(images(3), 0.01)
        leaving.cancel()
        await asyncio.sleep(0.01)
        echo.gate.set()
        await running
        assert (await batcher.submit(images(4), 5)).logits.item() == 4
        assert echo.batches == [[1], [4]]

    asyncio.run(scenario())


def test_a_failing_run_fails_its_requests_and_no_later_one(pool):
    async def scenario() -> None:
        echo = Echo()
        echo.failing = True
        batcher = Batcher("m", echo, pool, BatcherOptions(2, 99))
        with pytest.raises(InferenceError):
            await batcher.submit(images(*range(5)), 5)
        echo.failing = False
        assert (await batcher.submit(images(6), 5)).logits.item() == 6
        assert echo.batches == [[0, 1], [6]]

    asyncio.run(scenario())


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=25),
    leaving=st.sets(st.integers(0, 24)),
    cap=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_everyone_who_stays_is_answered_once_in_order_within_the_cap(sizes, leaving, cap):
    async def scenario() -> None:
        echo = Echo()
        batcher = Batcher("m", echo, executor, BatcherOptions(cap, 10_000))
        rng = np.random.default_rng(0)
        sent = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
        tasks = [asyncio.create_task(batcher.submit(images(*values), 10)) for values in sent]
        await asyncio.sleep(0)
        for index in leaving & set(range(len(tasks))):
            tasks[index].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for index, (values, answer) in enumerate(zip(sent, answers, strict=True)):
            if index not in leaving:
                assert isinstance(answer, Prediction)
                assert answer.logits[:, 0].tolist() == values.tolist()
                assert answer.probabilities[:, 0].tolist() == (values + 0.5).tolist()
        assert max(len(batch) for batch in echo.batches) <= cap
        assert sum(len(batch) for batch in echo.batches) <= sum(sizes)

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(scenario())

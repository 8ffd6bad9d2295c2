from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.engine.batcher import Batcher, BatchPlan, Flow, Served
from service.engine.errors import InferenceError
from service.engine.lanes import Lanes
from tests.service.engine.turnstile import Turnstile, numbered, submit


@pytest.fixture
def start():
    """Run a scenario with so many lanes and a plan; the lanes end with it."""

    def run(
        lanes: int,
        plan: BatchPlan,
        scenario: Callable[[Lanes, Batcher, Turnstile], Coroutine[Any, Any, None]],
    ) -> None:
        turnstile = Turnstile()
        threads = Lanes(lanes)
        try:
            asyncio.run(scenario(threads, Batcher(turnstile, plan), turnstile))
        finally:
            turnstile.open = True
            for one in list(turnstile.running):
                turnstile.end(one)
            threads.close()

    return run


async def begin(lanes: Lanes, batcher: Batcher, *numbers: int) -> asyncio.Task[Served]:
    task = asyncio.create_task(submit(lanes, batcher, numbered(*numbers)))
    await asyncio.sleep(0)
    return task


def test_a_single_request_runs_at_once_and_says_what_became_of_it(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        turnstile.open = True
        served = await submit(lanes, batcher, numbered(3))
        assert served.prediction.logits.tolist() == [[3]]
        assert served.receipt.batch_size == 1
        assert served.receipt.queue_s >= 0
        assert served.receipt.run_s > 0

    start(2, BatchPlan(4, 4), scenario)


def test_requests_gather_while_all_lanes_are_busy(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        tasks = [await begin(lanes, batcher, n) for n in range(6)]
        turnstile.settle(lanes)
        assert batcher.waiting == 5
        turnstile.open = True
        turnstile.end(turnstile.running[0])
        answers = await asyncio.gather(*tasks)
        assert [a.prediction.logits.item() for a in answers] == list(range(6))
        assert turnstile.begun == [[0], [1, 2, 3, 4], [5]]

    start(1, BatchPlan(8, 4), scenario)


def test_idle_lanes_share_what_waits(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        turnstile.open = True
        served = await submit(lanes, batcher, numbered(*range(8)))
        assert served.prediction.logits[:, 0].tolist() == list(range(8))
        assert sorted(turnstile.begun) == [[0, 1], [2, 3], [4, 5], [6, 7]]

    start(4, BatchPlan(8, 8), scenario)


def test_a_lane_takes_all_where_sharing_does_not_pay(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        turnstile.open = True
        await submit(lanes, batcher, numbered(*range(8)))
        assert turnstile.begun == [list(range(8))]

    start(4, BatchPlan(8, 8, spread=False), scenario)


def test_a_lonely_image_gets_all_threads_and_others_wait_for_it(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        first = await begin(lanes, batcher, 1)
        second = await begin(lanes, batcher, 2)
        turnstile.settle(lanes)
        assert [run.wide for run in turnstile.running] == [True]
        third = await begin(lanes, batcher, 3)
        await asyncio.sleep(0.02)
        assert turnstile.begun == [[1]]  # the other lane stands still meanwhile
        turnstile.end(turnstile.running[0])
        assert (await first).prediction.logits.item() == 1
        turnstile.settle(lanes)
        assert sorted(turnstile.begun[1:]) == [[2], [3]]  # two of them: a lane each
        turnstile.open = True
        for run in list(turnstile.running):
            turnstile.end(run)
        await asyncio.gather(second, third)

    start(2, BatchPlan(4, 4, wide_up_to=1), scenario)


def test_a_large_request_holds_a_small_one_up_for_one_small_batch_at_most(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        large = await begin(lanes, batcher, *range(100))
        turnstile.settle(lanes)
        assert len(turnstile.begun[0]) == 8  # nobody else is there
        turnstile_tasks = [await begin(lanes, batcher, 200), await begin(lanes, batcher, 201)]
        turnstile.open = True
        turnstile.end(turnstile.running[0])
        await asyncio.gather(large, *turnstile_tasks)
        assert turnstile.begun[1] == [200, 201]  # together, and alone
        assert {len(batch) for batch in turnstile.begun[2:-1]} == {2}  # another may come soon

    start(1, BatchPlan(8, 2), scenario)


def test_a_small_request_that_a_batch_cuts_goes_on_with_the_next(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        first = await begin(lanes, batcher, 0)
        turnstile.settle(lanes)
        requests = ([1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12])
        tasks = [await begin(lanes, batcher, *numbers) for numbers in requests]
        turnstile.open = True
        turnstile.end(turnstile.running[0])
        await asyncio.gather(first, *tasks)
        assert turnstile.begun == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]

    start(1, BatchPlan(8, 4), scenario)


def test_an_idle_lane_keeps_nothing_of_what_it_has_run(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        turnstile.open = True
        other = Batcher(turnstile, BatchPlan(4, 4))
        await submit(lanes, other, numbered(1))
        turnstile.settle(lanes)
        left = weakref.ref(other)
        del other
        gc.collect()
        assert left() is None

    start(1, BatchPlan(4, 4), scenario)


def test_a_large_request_goes_on_although_small_ones_never_end(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        first = await begin(lanes, batcher, 1)
        large = await begin(lanes, batcher, *range(100, 106))
        small = [await begin(lanes, batcher, n) for n in range(2, 6)]
        for number in range(6, 20):
            turnstile.settle(lanes)
            turnstile.end(turnstile.running[0])
            await asyncio.sleep(0.001)
            small.append(await begin(lanes, batcher, number))
        turns = [index for index, batch in enumerate(turnstile.begun) if batch[0] >= 100]
        assert len(turns) == 3
        turnstile.open = True
        for run in list(turnstile.running):
            turnstile.end(run)
        await asyncio.gather(first, large, *small)

    start(1, BatchPlan(8, 2), scenario)


def test_two_models_take_turns(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        other = Batcher(turnstile, BatchPlan(1, 1))
        tasks = [await begin(lanes, batcher, *range(6)), await begin(lanes, other, 100, 101, 102)]
        turnstile.settle(lanes)
        turnstile.open = True
        turnstile.end(turnstile.running[0])
        await asyncio.gather(*tasks)
        owners = [batch[0] >= 100 for batch in turnstile.begun]
        assert owners[1:] == [False, True, False, True, True]

    start(1, BatchPlan(2, 2), scenario)


def test_images_wait_for_their_batch_to_fill_if_asked_to(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        turnstile.open = True
        tasks = [await begin(lanes, batcher, n) for n in (1, 2)]
        await asyncio.sleep(0.01)
        assert turnstile.begun == []
        served = await asyncio.gather(*tasks)  # the time is up
        assert turnstile.begun == [[1, 2]]
        assert served[0].receipt.queue_s >= 0.05
        tasks = [await begin(lanes, batcher, n) for n in (1, 2, 3)]  # full before the time is up
        assert (await asyncio.gather(*tasks))[0].receipt.queue_s < 0.05

    start(2, BatchPlan(3, 3, spread=False, max_queue_delay_s=0.06), scenario)


def test_a_timer_that_is_early_loses_nobody(start, monkeypatch):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        turnstile.open = True
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def early(delay_s: float, *args: Any) -> asyncio.TimerHandle:
            return call_later(delay_s / 2, *args)

        monkeypatch.setattr(loop, "call_later", early)
        served = await asyncio.wait_for(submit(lanes, batcher, numbered(1)), 10)
        assert served.receipt.queue_s >= 0.05

    start(1, BatchPlan(3, 3, max_queue_delay_s=0.05), scenario)


def test_who_leaves_is_never_run(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        running = await begin(lanes, batcher, 1)
        leaving = await begin(lanes, batcher, *range(2, 99))
        staying = await begin(lanes, batcher, 99)
        leaving.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        turnstile.open = True
        turnstile.settle(lanes)
        for run in list(turnstile.running):
            turnstile.end(run)
        await asyncio.gather(running, staying)
        assert turnstile.begun == [[1], [99]]

    start(1, BatchPlan(4, 4), scenario)


def test_a_failing_run_fails_its_requests_and_no_later_one(start):
    async def scenario(lanes: Lanes, batcher: Batcher, turnstile: Turnstile) -> None:
        failing = await begin(lanes, batcher, *range(5))
        turnstile.settle(lanes)
        turnstile.end(turnstile.running[0], failing=True)
        with pytest.raises(InferenceError):
            await failing
        turnstile.open = True
        for run in list(turnstile.running):
            turnstile.end(run)
        assert (await submit(lanes, batcher, numbered(6))).prediction.logits.item() == 6
        assert batcher.waiting == 0

    start(1, BatchPlan(2, 2), scenario)


class Traffic(RuleBasedStateMachine):
    """Requests come, leave and are answered in any order; runs succeed or fail."""

    @initialize(
        lanes=st.integers(1, 3),
        sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
        wide_up_to=st.integers(0, 2),
        spread=st.booleans(),
    )
    def begin(self, lanes: int, sizes: tuple[int, int], wide_up_to: int, spread: bool) -> None:
        plan = BatchPlan(max(sizes), min(sizes), wide_up_to, spread)
        self.loop = asyncio.new_event_loop()
        self.turnstile = Turnstile()
        self.lanes = Lanes(lanes)
        self.batcher = Batcher(self.turnstile, plan)
        self.number = 0
        self.gone: set[int] = set()
        self.open: dict[asyncio.Task[Served], list[int]] = {}

    def spin(self) -> None:
        for _ in range(2):  # what the loop does may set lanes going, and the other way round
            for _ in range(4):
                self.loop.run_until_complete(asyncio.sleep(0))
            self.turnstile.settle(self.lanes)
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule(count=st.integers(1, 13))
    def come(self, count: int) -> None:
        numbers = list(range(self.number, self.number + count))
        self.number += count
        task = self.loop.create_task(submit(self.lanes, self.batcher, numbered(*numbers)))
        self.open[task] = numbers
        self.spin()

    @rule(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
    def come_bit_by_bit(self, counts: list[int]) -> None:
        flow = Flow(large=True)

        for count in counts:
            numbers = list(range(self.number, self.number + count))
            self.number += count
            task = self.loop.create_task(submit(self.lanes, self.batcher, numbered(*numbers), flow))
            self.open[task] = numbers
        self.spin()

    @rule(pick=st.integers(0, 99))
    def leave(self, pick: int) -> None:
        if self.open:
            task = list(self.open)[pick % len(self.open)]
            numbers = self.open.pop(task)
            begun = {number for batch in self.turnstile.begun for number in batch}
            task.cancel()
            self.spin()
            self.gone |= set(numbers) - begun

    @rule(pick=st.integers(0, 9), failing=st.booleans())
    def a_run_ends(self, pick: int, failing: bool) -> None:
        if self.turnstile.running:
            runs = self.turnstile.running
            self.turnstile.end(runs[pick % len(runs)], failing=failing)
            self.spin()

    @invariant()
    def answers_are_right_and_nothing_is_lost(self) -> None:
        if not hasattr(self, "lanes"):
            return
        for task in [task for task in self.open if task.done()]:
            numbers = self.open.pop(task)
            if isinstance(task.exception(), InferenceError):
                continue
            assert task.result().prediction.logits[:, 0].tolist() == numbers
        begun = [number for batch in self.turnstile.begun for number in batch]
        # Whoever left while waiting is never run, and holds no place.
        assert not set(begun) & self.gone
        assert len(begun) == len(set(begun))
        assert self.batcher.waiting <= sum(len(numbers) for numbers in self.open.values())
        # Work-conserving: nobody waits while a lane could run.
        wide = any(run.wide for run in self.turnstile.running)
        assert not self.batcher.waiting or not self.lanes.idle or wide
        assert not wide or len(self.turnstile.running) == 1

    def teardown(self) -> None:
        if not hasattr(self, "lanes"):
            return
        while self.turnstile.running:
            self.turnstile.end(self.turnstile.running[0])
            self.spin()
        assert self.batcher.waiting == 0
        self.answers_are_right_and_nothing_is_lost()
        assert not self.open
        self.lanes.close()
        self.loop.close()


Traffic.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_traffic = Traffic.TestCase

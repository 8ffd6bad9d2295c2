"""Runs that take too long: interrupted, or given up with their thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.engine.batcher import Batcher, BatchPlan, Served
from service.engine.errors import DeviceLostError, OutOfMemoryError, RunTimedOutError
from service.engine.interrupt import Interrupt, InterruptibleSession
from service.engine.lanes import Lanes
from service.engine.metrics import Metrics
from service.engine.session import Prediction
from tests.service.engine.turnstile import Turnstile, numbered, submit

TIMEOUT_S = 0.2


def timeouts(metrics: Metrics, result: str) -> float:
    labels = {"model": "m", "version": "1", "result": result}
    return sum(
        sample.value
        for sample in metrics.samples()
        if sample.name == "adaresnet_runs_timed_out_total" and sample.labels == labels
    )


@pytest.fixture
def start():
    """Run a scenario in which runs that the test doesn't end hang."""

    def run(
        count: int,
        scenario: Callable[[Lanes, Batcher, Turnstile, Metrics], Coroutine[Any, Any, None]],
        *,
        plan: BatchPlan | None = None,
        replaceable: bool = True,
    ) -> None:
        turnstile, lanes, metrics = Turnstile(), Lanes(count, TIMEOUT_S), Metrics()
        batcher = Batcher(
            turnstile, plan or BatchPlan(4, 4), metrics.version("m", 1), replaceable=replaceable
        )
        try:
            asyncio.run(scenario(lanes, batcher, turnstile, metrics))
        finally:
            turnstile.open = True
            for one in list(turnstile.running):
                turnstile.end(one)
            lanes.close()

    return run


def begin(lanes: Lanes, batcher: Batcher, *numbers: int) -> asyncio.Task[Served]:
    return asyncio.create_task(submit(lanes, batcher, numbered(*numbers)))


async def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_thread_that_hangs_is_replaced_and_others_are_answered(start):
    async def scenario(
        lanes: Lanes, batcher: Batcher, turnstile: Turnstile, metrics: Metrics
    ) -> None:
        hanging = begin(lanes, batcher, 1)
        await asyncio.sleep(0)
        waiting = begin(lanes, batcher, 2)
        with pytest.raises(RunTimedOutError, match="1 images took too long"):
            await hanging
        assert (timeouts(metrics, "interrupted"), timeouts(metrics, "given_up")) == (1, 1)
        assert (lanes.lost, lanes.ailment) == (1, None)
        await until(lambda: len(turnstile.running) == 2)
        first, second = turnstile.running
        assert (first.numbers, second.numbers) == ([1], [2])
        turnstile.end(second)
        assert (await waiting).prediction.logits.item() == 2
        turnstile.end(first)  # it comes back after all, and harms nobody
        await until(lambda: lanes.lost == 0)
        turnstile.open = True
        assert (await begin(lanes, batcher, 3)).prediction.logits.item() == 3
        await until(lambda: len(lanes.idle) == 1)  # just behind its answer

    start(1, scenario)


def test_a_run_on_all_threads_that_hangs_frees_all_lanes(start):
    async def scenario(
        lanes: Lanes, batcher: Batcher, turnstile: Turnstile, metrics: Metrics
    ) -> None:
        with pytest.raises(RunTimedOutError):
            await begin(lanes, batcher, 1)
        assert turnstile.running[0].wide
        turnstile.open = True
        answers = await asyncio.gather(*(begin(lanes, batcher, n) for n in range(8)))
        assert [one.prediction.logits.item() for one in answers] == list(range(8))

    start(2, scenario, plan=BatchPlan(1, 1, wide_up_to=1))


def test_too_many_that_hang_are_said(start):
    async def scenario(
        lanes: Lanes, batcher: Batcher, turnstile: Turnstile, metrics: Metrics
    ) -> None:
        for number in (1, 2):
            assert lanes.ailment is None
            with pytest.raises(RunTimedOutError):
                await begin(lanes, batcher, number)
        assert lanes.ailment == "2 runs hang"

    start(1, scenario)


def test_one_that_can_not_be_replaced_is_said_at_once(start):
    async def scenario(
        lanes: Lanes, batcher: Batcher, turnstile: Turnstile, metrics: Metrics
    ) -> None:
        with pytest.raises(RunTimedOutError):
            await begin(lanes, batcher, 1)
        assert lanes.ailment is not None
        assert "can't run anything else" in lanes.ailment

    start(2, scenario, replaceable=False)


def test_runs_that_end_in_time_are_left_alone(start):
    async def scenario(
        lanes: Lanes, batcher: Batcher, turnstile: Turnstile, metrics: Metrics
    ) -> None:
        turnstile.open = True
        until_s = time.monotonic() + 4 * TIMEOUT_S
        while time.monotonic() < until_s:  # a lane that is busy all the time, and idle between
            await asyncio.gather(*(begin(lanes, batcher, n) for n in range(20)))
        assert timeouts(metrics, "interrupted") == 0

    start(1, scenario)


def looping(rounds: int) -> bytes:
    """A graph that adds 1 so many times."""
    float_1 = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["before", "one"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)],
        "graph",
        float_1[:1],
        float_1[1:],
        [
            numpy_helper.from_array(np.array(rounds, np.int64), "rounds"),
            numpy_helper.from_array(np.ones(1, np.float32), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def test_a_run_of_onnx_runtime_is_interrupted_and_the_session_goes_on():
    """With a real session, whose graph would take hours."""
    endless = InterruptibleSession(looping(10**12), providers=["CPUExecutionProvider"])
    short = InterruptibleSession(looping(3), providers=["CPUExecutionProvider"])
    zero = np.zeros(1, np.float32)
    sessions = {1: endless, 2: short}

    def run(images: np.ndarray, lane: int, wide: bool) -> Prediction:
        number = int(np.ascontiguousarray(images).view(np.uint32).item())
        (out,) = sessions[number].run(["y"], {"x": zero})
        return Prediction(out[None], out[None])

    async def scenario() -> None:
        lanes, metrics = Lanes(1, TIMEOUT_S), Metrics()
        batcher = Batcher(run, BatchPlan(1, 1), metrics.version("m", 1))
        with pytest.raises(RunTimedOutError):
            await begin(lanes, batcher, 1)
        assert (await begin(lanes, batcher, 2)).prediction.logits.item() == 3
        assert (timeouts(metrics, "interrupted"), timeouts(metrics, "given_up")) == (1, 0)
        assert lanes.lost == 0
        lanes.close()

    asyncio.run(scenario())


def test_an_interrupt_is_of_one_thread():
    session = InterruptibleSession(looping(3), providers=["CPUExecutionProvider"])
    interrupt = Interrupt()
    interrupt.end_run()  # nobody has adopted it
    assert session.run(["y"], {"x": np.zeros(1, np.float32)})[0].item() == 3


def test_batches_without_memory_run_in_halves_down_to_single_images():
    sizes: list[int] = []

    def run(images: np.ndarray, lane: int, wide: bool) -> Prediction:
        sizes.append(len(images))
        values = np.ascontiguousarray(images).view(np.uint32).reshape(-1)
        if len(images) > 2 or 99 in values:
            raise OutOfMemoryError("There was no memory left.", hint="none")
        return Prediction(values[:, None].astype(np.float32), values[:, None] + np.float32(0.5))

    async def scenario() -> None:
        lanes, metrics = Lanes(1), Metrics()
        batcher = Batcher(run, BatchPlan(8, 8), metrics.version("m", 1))
        served = await begin(lanes, batcher, *range(7))
        assert served.prediction.logits[:, 0].tolist() == list(range(7))
        assert served.prediction.probabilities[:, 0].tolist() == [n + 0.5 for n in range(7)]
        assert sizes == [7, 3, 1, 2, 4, 2, 2]
        splits = [s.value for s in metrics.samples() if s.name == "adaresnet_batch_splits_total"]
        assert splits == [3]
        with pytest.raises(OutOfMemoryError):
            await begin(lanes, batcher, 98, 99)
        assert lanes.ailment is None
        lanes.close()

    asyncio.run(scenario())


def test_a_device_that_is_lost_is_said():
    def run(images: np.ndarray, lane: int, wide: bool) -> Prediction:
        raise DeviceLostError("The GPU failed on a batch of 1 images.", hint="none")

    async def scenario() -> None:
        lanes = Lanes(2)
        with pytest.raises(DeviceLostError):
            await begin(lanes, Batcher(run, BatchPlan(1, 1)), 1)
        assert lanes.ailment == "The GPU failed on a batch of 1 images."
        lanes.close()

    asyncio.run(scenario())

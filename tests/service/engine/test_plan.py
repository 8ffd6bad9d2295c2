from __future__ import annotations

import time

import numpy as np
import pytest

from service.engine.batcher import BatchPlan
from service.engine.plan import PlanOptions, Timings, choose_plan, time_runs

MEASURED = PlanOptions()


class Clock:
    """In the place of the module ``time``: it goes on when it is told to."""

    now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


def plan(
    narrow: Timings, wide: Timings | None = None, options: PlanOptions = MEASURED
) -> BatchPlan:
    return choose_plan(narrow, wide, 2, options, spread=True)


def test_where_batches_gain_nothing_small_ones_are_small_and_large_ones_large():
    flat = {size: 0.0004 * size for size in (1, 2, 4, 8, 16, 32)}
    chosen = plan(flat)
    # What a batch costs besides its run is shared out to its images.
    assert (chosen.small_batch_size, chosen.batch_size) == (8, 32)


def test_where_batches_gain_much_all_are_large():
    falling = {1: 0.004, 2: 0.0041, 4: 0.0042, 8: 0.0045, 16: 0.005, 32: 0.006, 64: 0.007}
    chosen = plan(falling)
    assert (chosen.small_batch_size, chosen.batch_size) == (64, 64)


def test_no_batch_takes_long_unless_a_single_image_does():
    slow = {size: 0.002 * size for size in (1, 2, 4, 8, 16, 32)}
    assert plan(slow).batch_size == 8
    very_slow = {1: 0.1, 2: 0.11, 4: 0.12}
    assert (plan(very_slow).small_batch_size, plan(very_slow).batch_size) == (1, 1)


def test_a_size_that_was_asked_for_is_taken():
    flat = {size: 0.0004 * size for size in (1, 2, 4, 8)}
    chosen = plan(flat, options=PlanOptions(max_batch_size=2, max_queue_delay_s=0.5))
    assert (chosen.small_batch_size, chosen.batch_size) == (2, 2)
    assert chosen.max_queue_delay_s == 0.5


@pytest.mark.parametrize(
    ("wide", "up_to"),
    [
        (None, 0),
        ({1: 0.05, 2: 0.1}, 0),  # slower than a lane
        ({1: 0.025, 2: 0.045}, 1),  # two images are a lane's each
        ({1: 0.025, 2: 0.039}, 2),
    ],
)
def test_all_threads_take_what_they_do_sooner(wide, up_to):
    assert plan({1: 0.04, 2: 0.08}, wide).wide_up_to == up_to


def test_runs_are_timed_in_doubling_sizes_up_to_the_cap_and_the_budget():
    seen = []

    def run(images: np.ndarray) -> None:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (2, 3, 3)
        seen.append(len(images))

    assert list(time_runs(run, 2, 3, 5, budget_s=60)) == [1, 2, 4]
    assert set(seen) == {1, 2, 4}

    assert list(time_runs(run, 2, 3, 30, least=6, budget_s=60)) == [6, 12, 24]

    def slow(images: np.ndarray) -> None:
        time.sleep(0.03)

    timings = time_runs(slow, 2, 3, 1024)
    assert next(iter(timings)) == 1
    assert len(timings) <= 3
    assert timings[1] >= 0.03


def test_larger_batches_are_timed_until_they_are_dearer(monkeypatch):
    """Those that cost the same an image are worth having: there are fewer of them."""
    clock = Clock()
    monkeypatch.setattr("service.engine.plan.time", clock)

    def even(images: np.ndarray) -> None:
        clock.now_s += 0.002 * len(images)

    def dearer(images: np.ndarray) -> None:
        clock.now_s += 0.002 * len(images) * (1 if len(images) < 8 else 1.1)

    assert list(time_runs(even, 2, 3, 32, budget_s=60)) == [1, 2, 4, 8, 16, 32]
    assert list(time_runs(dearer, 2, 3, 32, budget_s=60)) == [1, 2, 4, 8]

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.loadtest.measurement import Load, Measurement
from service.loadtest.search import LEAST_RATE, MOST_RATE, Goal, find_limit


def server(limit_per_s: float, asked: list[float]) -> Callable[[float], Measurement]:
    """A server that answers in 10 ms up to a rate, and in 200 ms above."""

    def measure(rate_per_s: float) -> Measurement:
        asked.append(rate_per_s)
        found = Measurement(Load(rate_per_s), due=1000, answered=1000, in_time=1000, seconds=10.0)
        for _ in range(1000):
            found.latencies.add(0.01 if rate_per_s <= limit_per_s else 0.2)
        return found

    return measure


@given(st.floats(0.5, 50_000), st.floats(1, 5_000))
def test_the_limit_is_found_within_five_percent(limit_per_s, start_per_s):
    asked: list[float] = []
    best = find_limit(server(limit_per_s, asked), start_per_s, Goal(p99_s=0.05))
    assert best is not None
    assert limit_per_s / 1.06 <= best.load.rate_per_s <= limit_per_s
    assert len(asked) == len(set(asked)) <= 2 + abs(math.log2(limit_per_s / start_per_s)) + 6


def test_what_never_holds_and_what_always_does():
    asked: list[float] = []
    assert find_limit(server(0.0, asked), 50, Goal(0.05)) is None
    assert min(asked) >= LEAST_RATE
    best = find_limit(server(math.inf, asked), 50, Goal(0.05))
    assert best is not None
    assert MOST_RATE / 2 <= best.load.rate_per_s <= MOST_RATE


@given(st.integers(0, 1000), st.integers(0, 100), st.floats(0.0, 0.2))
def test_errors_are_allowed_as_far_as_is_said(answered, failed, share):
    assume(answered + failed)
    found = Measurement(Load(100.0), due=answered + failed, answered=answered, in_time=answered)
    for _ in range(answered):
        found.latencies.add(0.01)
    for _ in range(failed):
        found.fail("503 queue_full")
    if answered and not failed:
        assert not Goal(0.05, share).misses(found)
    if failed / (answered + failed) > share:
        assert Goal(0.05, share).misses(found)


def test_a_server_that_falls_behind_within_its_latency_has_not_reached_the_goal():
    found = Measurement(Load(100.0), due=1000, answered=1000, in_time=700, seconds=10.0)
    found.latencies.add(1.9)
    assert Goal(p99_s=2.0).misses(found)  # 200 may be on their way, and 50 more
    found.in_time = 760
    assert not Goal(p99_s=2.0).misses(found)


def test_an_interrupted_search_gives_what_it_knows():
    asked: list[float] = []
    measure = server(1000, asked)

    def interrupted(rate_per_s: float) -> Measurement:
        found = measure(rate_per_s)
        found.interrupted = len(asked) == 3
        return found

    best = find_limit(interrupted, 50, Goal(0.05))
    assert best is not None
    assert best.load.rate_per_s == pytest.approx(100)
    assert len(asked) == 3

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.latency import Histogram, merged


def counted(values) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(st.lists(st.floats(2e-6, 600), min_size=1, max_size=300), st.sampled_from((0.5, 0.99, 1.0)))
def test_a_percentile_is_right_within_half_a_percent(values, share):
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    found = counted(values).percentile_s(share)
    assert exact * 0.999999 <= found <= exact * 1.00501


def test_memory_is_bounded_however_many_there_are(rng):
    histogram = counted(rng.lognormal(-5, 2, 20_000).tolist())
    assert len(histogram.counts) < 4200
    assert histogram.total == 20_000


def test_histograms_add_up():
    halves = np.linspace(0.001, 0.1, 500), np.linspace(0.1, 0.5, 500)
    together = counted(np.concatenate(halves).tolist())
    assert merged(counted(half.tolist()) for half in halves) == together
    assert together.percentile_s(0.5) == pytest.approx(0.1, rel=0.006)
    assert together.percentile_s(1) == 0.5


def test_none_and_the_tiny_and_the_endless():
    assert Histogram().percentile_s(0.5) == math.inf
    assert counted([0.0, 1e-9]).percentile_s(1) == 1e-9
    assert counted([1e7]).percentile_s(0.5) > 900

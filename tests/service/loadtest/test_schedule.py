from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loadtest.schedule import ARRIVALS, arrivals


@given(
    st.sampled_from(ARRIVALS),
    st.floats(0.1, 500),
    st.floats(0.01, 10),
)
def test_times_rise_within_the_schedule_and_are_the_same_again(kind, rate_per_s, until_s):
    times = list(arrivals(kind, rate_per_s, until_s))
    assert times == sorted(times)
    assert all(0 <= due_s < until_s for due_s in times)
    assert times == list(arrivals(kind, rate_per_s, until_s))


def test_constant_arrivals_do_not_drift():
    times = list(arrivals("constant", 300, 1000))
    assert len(times) == 300_000
    assert times[-1] == pytest.approx(999.99666, abs=1e-5)


def test_poisson_arrivals_have_the_rate_and_know_nothing_of_each_other():
    times = list(arrivals("poisson", 200, 500))
    assert len(times) == pytest.approx(100_000, rel=0.02)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # An exponential distribution has its mean as its standard deviation.
    assert statistics.fmean(gaps) == pytest.approx(1 / 200, rel=0.02)
    assert statistics.stdev(gaps) == pytest.approx(1 / 200, rel=0.02)
    assert statistics.correlation(gaps[:-1], gaps[1:]) == pytest.approx(0, abs=0.02)


def test_a_long_schedule_takes_no_memory():
    assert list(itertools.islice(arrivals("poisson", 1e5, 1e12), 3))

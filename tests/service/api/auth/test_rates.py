from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.auth import rates as module
from service.api.auth.rates import Bucket, Meter, RateLimits, SharedRates
from tests.conftest import ROOT


def bucket(per_s: float, rates: SharedRates | None = None, name: str = "app") -> Bucket:
    return Bucket(rates or SharedRates(), name, "requests", per_s)


def take_all(of: Bucket, now_s: float) -> int:
    taken = 0
    while of.wait_s(now_s) == 0:
        of.take(1, now_s)
        taken += 1
    return taken


@pytest.mark.parametrize(("per_s", "full"), [(10, 10), (1, 1), (0.1, 1), (2.5, 2)])
def test_a_bucket_holds_a_second_and_refills_at_its_rate(per_s, full):
    of = bucket(per_s)
    now_s = 1000.0
    assert take_all(of, now_s) == full
    wait_s = of.wait_s(now_s)
    assert 0 < wait_s <= 1 / per_s + 1e-9
    assert of.wait_s(now_s + wait_s - 1e-3) > 0
    assert take_all(of, now_s + wait_s + 1e-6) == 1
    assert take_all(of, now_s + 100) == full


@given(
    per_s=st.floats(0.05, 1000),
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 20)), max_size=40),
)
def test_no_more_is_given_than_the_rate_allows(per_s, steps):
    of = bucket(per_s)
    began_s = now_s = 50.0
    given_ = 0
    for pause_s, wanted in steps:
        now_s += pause_s
        for _ in range(wanted):
            if of.wait_s(now_s) == 0:
                of.take(1, now_s)
                given_ += 1
    full = per_s * max(1, math.ceil(1 / per_s))
    assert given_ <= full + per_s * (now_s - began_s) + 0.01


def test_what_is_left_is_told_as_the_draft_says():
    of = bucket(10)
    assert of.policy == '"requests";q=10;w=1'
    assert of.state(5.0) == '"requests";r=10;t=0'
    of.take(4, 5.0)
    assert of.state(5.0) == '"requests";r=6;t=1'
    assert bucket(0.1).policy == '"requests";q=1;w=10'


def test_images_may_be_owed():
    meter = Meter(SharedRates(), "app", RateLimits(None, 2))
    assert meter.begin() is None
    meter.add_images(11)
    unit, wait_s = meter.begin() or ("", 0)
    assert unit == "images"
    assert 4 <= wait_s <= 5
    assert re.search(rb'"images";r=0;t=[56]$', dict(meter.headers())[b"ratelimit"])


def test_callers_have_buckets_of_their_own_by_name_wherever_they_are_made():
    rates = SharedRates()
    one, again, other = bucket(3, rates), bucket(3, rates), bucket(3, rates, "other")
    assert take_all(one, 9.0) == 3
    assert take_all(again, 9.0) == 0
    assert take_all(other, 9.0) == 3


def test_of_too_many_callers_those_that_are_idle_longest_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "_PLACES", 8)
    monkeypatch.setattr(module, "_TRIES", 8)
    rates = SharedRates()
    many = [bucket(1, rates, f"caller {number}") for number in range(20)]
    for number, of in enumerate(many):
        of.take(1, 100.0 + number)
    assert many[-1].wait_s(119.0) > 0
    assert many[0].wait_s(119.0) == 0


FORK = """
import os
from service.api.auth.rates import Bucket, SharedRates

rates = SharedRates()
if os.fork() == 0:
    for name in ("a", "b"):
        Bucket(rates, name, "requests", 1).take(1, 500.0)
    os._exit(0)
os.wait()
print([Bucket(rates, name, "requests", 1).wait_s(500.0) for name in ("a", "b", "c")])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_forked_processes_share_them():
    result = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[1.0, 1.0, 0.0]"

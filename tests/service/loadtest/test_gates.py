from __future__ import annotations

import argparse

import pytest

from service.loadtest.gates import NO_ERRORS, parse_gate
from service.loadtest.measurement import Load, Measurement


def measured(latencies_s=(), failed=0, due=None) -> Measurement:
    found = Measurement(Load(100.0), seconds=10.0)
    for latency_s in latencies_s:
        found.latencies.add(latency_s)
    found.answered = found.in_time = len(latencies_s)
    for _ in range(failed):
        found.fail("503 queue_full", "full")
    found.due = len(latencies_s) + failed if due is None else due
    return found


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("p99>50ms", True),
        ("p50>50ms", False),
        (" p99.9 >= 0.2s", True),
        ("max>200ms", False),
        ("p90<20ms", True),
        ("errors>1%", True),
        ("errors>=25%", False),
        ("achieved<95%", True),
        ("achieved<75.5%", False),
    ],
)
def test_conditions(text, fails):
    found = measured([0.01] * 90 + [0.2] * 10, failed=10, due=130)
    assert parse_gate(text).fails(found) is fails


def test_the_default_allows_no_error():
    assert not NO_ERRORS.fails(measured([0.01]))
    assert NO_ERRORS.fails(measured([0.01] * 100_000, failed=1))
    half = measured([0.01], failed=1)
    assert NO_ERRORS.describe(half) == "errors is 50.00%; it fails at errors>0%"


def test_without_any_answer_a_condition_about_latency_fails():
    assert parse_gate("p99>50ms").fails(measured())
    assert parse_gate("p99<1us").fails(measured())


@pytest.mark.parametrize(
    "text",
    ["", "p99", "p99>", "p98>50ms", "p99>50", "p99>50%", "errors>1", "errors>1ms", "p99=50ms",
     "p99>-1ms", "achieved<nan%", "p99>50ms,max>1s"],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_an_example(text):
    with pytest.raises(argparse.ArgumentTypeError, match="p99>50ms"):
        parse_gate(text)

"""The table, the JSON report and the chart."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loadtest.gates import NO_ERRORS, parse_gate
from service.loadtest.measurement import PERCENTILES, Load, Measurement
from service.loadtest.report import Report, as_json, is_late, lines
from service.loadtest.search import Goal
from service.loadtest.svg import draw

SVG = "{http://www.w3.org/2000/svg}"


def measured(rate_per_s: float, latencies_s: list[float], failed: int = 0) -> Measurement:
    found = Measurement(Load(rate_per_s, seconds=2.0), seconds=2.0)
    for latency_s in latencies_s:
        found.latencies.add(latency_s)
        found.service_times.add(latency_s)
        found.lags.add(0.0)
    found.answered = found.in_time = len(latencies_s)
    for _ in range(failed):
        found.fail("503 queue_full", "512 images are waiting & the limit is <512>.")
    found.due = len(latencies_s) + failed
    return found


def report(*measurements: Measurement, **changes) -> Report:
    return replace(Report(1, measurements, [NO_ERRORS]), **changes)


@given(st.lists(st.floats(2e-6, 60), min_size=1, max_size=500))
def test_percentiles_are_those_of_the_latencies_within_half_a_percent(latencies_s):
    found = as_json(report(measured(10, latencies_s)))["rates"][0]["latency_ms"]
    exact = sorted(latencies_s)
    for name, share in PERCENTILES.items():
        right = exact[math.ceil(share * len(exact)) - 1] * 1e3
        assert right * 0.999999 <= found[name] <= right * 1.00501
    assert found["max"] == exact[-1] * 1e3


def test_the_table_has_a_line_for_each_rate_and_says_what_went_wrong():
    good = measured(100, [0.002] * 10_000)
    full = measured(200, [0.004] * 30, failed=10)
    text = lines(report(good, full, gates=[NO_ERRORS, parse_gate("p99>3ms")]))
    assert re.split(r" {2,}", text[0].strip())[:4] == ["RATE", "DUE", "ANSWERED/S", "P50"]
    assert re.split(r" {2,}", text[1].strip())[:3] == ["100/s", "10000", "5000"]
    assert text[2].endswith("10 (25.0%)")
    assert "200/s: 10 x 503 queue_full: 512 images are waiting & the limit is <512>." in text
    assert "200/s: only 75% were answered while the load lasted, 2 s" in text
    assert "200/s: p99 and p99.9 of 30 requests is the largest of all" in text
    assert text[-2:] == [
        "failed: 200/s: errors is 25.00%; it fails at errors>0%",
        "failed: 200/s: p99 is 4.00 ms; it fails at p99>3ms",
    ]


def test_several_images_a_request_are_counted():
    (head, row, *_) = lines(report(measured(10, [0.01] * 20), images_per_request=16))
    assert head.endswith("IMAGES/S")
    assert row.endswith(" 160")


def test_a_limit_is_held_to_the_gates_and_what_was_tried_above_it_is_not():
    low, high = measured(100, [0.01] * 200), measured(200, [0.9] * 400, failed=3)
    found = report(low, high, goal=Goal(0.05), limit=low)
    assert found.failures() == []
    assert "limit: 100 requests/s is the most that was seen with p99 within 50.0 ms" in lines(found)
    assert as_json(found)["limit"]["requests_per_s"] == 100
    none = report(high, goal=Goal(0.05))
    assert none.failures() == ["no rate was found at which p99 keeps within 50.0 ms"]
    assert as_json(none)["limit"]["requests_per_s"] is None


def test_a_rate_at_which_nothing_was_due_fails_unless_it_was_interrupted():
    nothing = measured(0.1, [])
    found = report(measured(100, [0.01] * 200), nothing)
    assert found.failures() == ["0.10/s: no request was due; raise --duration"]
    assert not as_json(found)["passed"]
    assert lines(found)[-1] == "failed: 0.10/s: no request was due; raise --duration"
    assert report(replace(nothing, interrupted=True)).failures() == []


def test_a_generator_that_was_late_itself_is_told_from_a_slow_server():
    found = measured(100, [0.002] * 100)
    assert not is_late(found)
    assert not is_late(replace(found, client_cpus=0.5))
    assert is_late(replace(found, client_cpus=0.97))
    for _ in range(10):
        found.lags.add(0.02)
    assert is_late(found)
    assert any("the load generator itself was late" in line for line in lines(report(found)))


def test_json_says_it_all_and_is_json_without_any_answer():
    found = measured(100, [0.002] * 99 + [0.5], failed=2)
    document = json.loads(json.dumps(as_json(report(found)), allow_nan=False))
    (row,) = document["rates"]
    assert not document["passed"]
    assert row["failures"][0]["count"] == 2
    assert sum(bucket["count"] for bucket in row["latency_histogram"]) == 100
    assert row["load"]["arrivals"] == "poisson"
    silent = json.loads(json.dumps(as_json(report(measured(5, []))), allow_nan=False))
    assert silent["rates"][0]["latency_ms"]["p99"] is None


def root_of(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document)


def test_the_chart_has_axes_units_a_legend_and_a_line_for_each_percentile():
    points = [measured(rate, [0.001 * rate / 100] * 50 + [0.3]) for rate in (400, 100, 200)]
    points[0].fail("connection lost")
    gates = [NO_ERRORS, parse_gate("p99>50ms")]
    title = 'colors <1> & "friends"'
    root = root_of(draw(report(*points, gates=gates, title=title)))
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert title in texts
    assert {"p50", "p90", "p99", "p99.9", "max", "p99>50ms"} <= set(texts)
    assert "rate of arrival (requests/s)" in texts
    assert "latency from the time due (log scale)" in texts
    assert {"1 ms", "10 ms", "100 ms", "0", "100", "400"} <= set(texts)
    found = list(root.iter(f"{SVG}polyline"))
    assert len(found) == 5
    for line in found:
        xs = [float(pair.split(",")[0]) for pair in (line.get("points") or "").split()]
        assert len(xs) == 3
        assert xs == sorted(xs)
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")
    marks = [node for node in root.iter(f"{SVG}circle") if node.find(f"{SVG}title") is not None]
    assert len(marks) == 15
    assert sum("open" in (node.get("class") or "") for node in marks) == 5


@given(
    st.lists(st.tuples(st.floats(0.1, 1e5), st.lists(st.floats(0, 3600), max_size=5)), max_size=6),
    st.text(),
)
def test_whatever_was_measured_the_chart_is_xml_and_inside_its_frame(rows, title):
    title = "".join(letter for letter in title if letter.isprintable())
    points = [measured(rate_per_s, latencies_s) for rate_per_s, latencies_s in rows]
    root = root_of(draw(report(*points, title=title)))
    width, height = (float(root.get(name) or 0) for name in ("width", "height"))
    for node in root.iter(f"{SVG}circle"):
        assert 0 < float(node.get("cx") or 0) <= width
        assert 0 < float(node.get("cy") or 0) <= height


@pytest.mark.parametrize("latency_s", [1e-6, 0.0123, 700.0])
def test_one_rate_alone_is_drawn(latency_s):
    root = root_of(draw(report(measured(50, [latency_s]))))
    assert len(list(root.iter(f"{SVG}polyline"))) == 0
    assert len([node for node in root.iter(f"{SVG}circle") if len(node)]) == 5

from __future__ import annotations

import subprocess
import sys

from service.engine.metrics import Metrics
from service.engine.retention import Retention
from tests.conftest import ROOT

HOUR_S = 3600.0


def test_versions_are_forgotten_an_hour_after_they_have_gone():
    retention = Retention()
    assert retention.update([("m", "1"), ("m", "2")], 0) == set()
    assert retention.update([("m", "2")], 100) == set()
    assert retention.update([("m", "2")], 99 + HOUR_S) == set()
    assert retention.update([("m", "2")], 100 + HOUR_S) == {("m", "1")}
    assert retention.forgotten == {("m", "1")}
    assert retention.update([("m", "2")], 101 + HOUR_S) == set()
    retention.update([("m", "1"), ("m", "2")], 102 + HOUR_S)  # it is there again
    assert retention.forgotten == set()


def test_one_that_comes_back_in_time_is_kept():
    retention = Retention()
    retention.update([("m", "1")], 0)
    retention.update([], 10)
    retention.update([("m", "1")], 20)
    assert retention.update([("m", "1")], 2 * HOUR_S) == set()
    retention.update([], 2 * HOUR_S)
    assert retention.update([], 3 * HOUR_S - 1) == set()


def test_no_more_than_a_hundred_are_kept_and_the_oldest_go_first():
    retention = Retention()
    for number in range(150):
        retention.update([("m", str(number))], number)
    assert retention.forgotten == {("m", str(number)) for number in range(49)}


def test_what_others_have_counted_before_is_found():
    retention = Retention()
    retention.update([("m", "2")], 0)
    retention.find([("m", "1"), ("m", "2")], 10)
    retention.find([("m", "1")], 500)
    assert retention.update([("m", "2")], 10 + HOUR_S) == {("m", "1")}
    retention.find([("m", "1")], 20 + HOUR_S)
    assert retention.update([("m", "2")], 11 + 2 * HOUR_S) == set()


def test_metrics_forget_every_series_of_a_version(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr("service.engine.metrics.time.monotonic", lambda: now_s)
    metrics = Metrics()
    for model, number in (("m", 1), ("other", 1)):
        version = metrics.version(model, number)
        version.batch(4, 0.001, 0.02)
        version.timed_out("interrupted")
        metrics.request("/v1/classify", version, 200, 0.1)
        metrics.load(model, number, succeeded=True)
    metrics.request("/v1/classify", None, 404, 0.1)
    metrics.keep([("m", 1), ("other", 1)])
    metrics.keep([("other", 1)])
    assert b'model="m"' in metrics.render()
    now_s = HOUR_S
    metrics.keep([("other", 1)])
    text = metrics.render()
    assert b'model="m"' not in text
    assert text.count(b'model="other"') > 10
    metrics.request("/v1/classify", None, 404, 0.1)
    none = b'adaresnet_request_duration_seconds_count{model="",route="/v1/classify",status="404"'
    assert none + b',version=""} 2.0' in metrics.render()
    metrics.keep([("m", 1), ("other", 1)])  # loaded again
    metrics.request("/v1/classify", metrics.version("m", 1), 200, 0.1)
    again = b'adaresnet_request_duration_seconds_count{model="m",route="/v1/classify",status="200"'
    assert again + b',version="1"} 1.0' in metrics.render()


def test_workers_show_no_versions_that_have_gone_long_ago(tmp_path):
    """In a process of its own: how a process keeps its series is settled once in its life."""
    script = f"""
from pathlib import Path
from service.engine import metrics
folder, now_s = Path({str(tmp_path)!r}), 0.0
metrics.time.monotonic = lambda: now_s

def worker(number):
    metrics.share_metrics(folder, number)
    return metrics.Metrics(folder)

def shown(metrics):
    text = metrics.render().decode()
    return [name for name in ("old", "new") if f'model="{{name}}"' in text]

first = worker(0)
first.version("old", 1).answered(3, {{}})
first.keep([("old", 1)])
second = worker(1)  # which never had that version
second.version("new", 1).answered(4, {{}})
second.keep([("new", 1)])
print(shown(second))
now_s = {HOUR_S}
second.keep([("new", 1)])
print(shown(second))
second.version("old", 1).answered(1, {{}})
second.keep([("old", 1), ("new", 1)])
print(shown(second))
"""
    command = [sys.executable, "-c", script]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert text.splitlines() == ["['old', 'new']", "['new']", "['old', 'new']"]

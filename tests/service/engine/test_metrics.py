from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.engine.errors import ImageDecodeError, InferenceError, QueueFullError
from service.engine.metrics import Account, Metrics

ROOT = Path(__file__).parents[3]


def samples(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def images(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Counts that are not 0, by outcome and reason."""
    found = {}
    for name, value in samples(metrics).items():
        if name.startswith("adaresnet_images_total") and value:
            labels = dict(pair.split("=") for pair in name.partition("{")[2][:-1].split(","))
            found[labels["outcome"].strip('"'), labels["reason"].strip('"')] = value
    return found


def account(received: int, ran: int = 0, bad: int = 0, *, admitted: bool = True) -> Account:
    made = Account()
    made.received, made.ran, made.admitted = received, ran, admitted
    made.bad = {index: ImageDecodeError("x", hint="y") for index in range(bad)}
    return made


def test_an_answer_counts_good_and_bad_images_apart():
    metrics = Metrics()
    metrics.version("m", 1).answered(5, account(5, bad=2).bad)
    assert images(metrics) == {("answered", ""): 3, ("failed", "image_undecodable"): 2}


@pytest.mark.parametrize("reason", ["client_gone", "deadline", "request_failed"])
def test_of_a_request_without_an_answer_some_ran_and_the_rest_never_did(reason):
    metrics = Metrics()
    metrics.version("m", 1).unanswered(account(10, ran=3, bad=1), reason)
    assert images(metrics) == {
        ("never_run", reason): 6,
        ("unanswered", reason): 3,
        ("failed", "image_undecodable"): 1,
    }


def test_errors_are_counted_by_what_they_did_to_the_images():
    full, broken = QueueFullError("x", hint="y"), InferenceError("x", hint="y")
    left = ("never_run", "request_failed")
    for error, of, expected in (
        (full, account(4, admitted=False), {("refused", "queue_full"): 4}),
        (full, account(4, ran=1), {left: 3, ("unanswered", "request_failed"): 1}),
        (broken, account(4, ran=3), {left: 1, ("failed", "inference_failed"): 3}),
    ):
        metrics = Metrics()
        metrics.version("m", 1).failed(of, error)
        assert images(metrics) == expected


def test_a_counter_of_images_never_run_is_there_before_it_counts():
    metrics = Metrics()
    metrics.version("m", 1)
    name = 'adaresnet_images_total{model="m",outcome="never_run",reason="client_gone",version="1"}'
    assert samples(metrics)[name] == 0


def test_a_version_that_is_gone_is_not_shown_and_one_loaded_again_goes_on():
    metrics = Metrics()
    metrics.serve([("m", 1, "ab", "CPUExecutionProvider")])
    metrics.serve([("m", 1, "cd", "CPUExecutionProvider"), ("m", 2, "ef", "CPUExecutionProvider")])
    shown = [name for name in samples(metrics) if "model_info" in name]
    assert len(shown) == 2
    assert not [name for name in shown if '"ab"' in name]
    metrics.serve([])
    assert not [name for name in samples(metrics) if "model_info" in name]
    assert metrics.version("m", 1) is metrics.version("m", 1)


def test_requests_batches_refusals_and_loads():
    metrics = Metrics()
    version = metrics.version("m", 1)
    metrics.request("/v1/classify", version, 200, 0.003)
    metrics.request("/v1/classify", version, 200, 0.7)
    metrics.request("other", None, 404, 0.001)
    version.batch(4, 0.001, 0.02)
    metrics.refused("not_found")
    metrics.load("m", 1, succeeded=True)
    metrics.load("m", 2, succeeded=False)
    metrics.watch(lambda: 7)
    found = samples(metrics)
    request = 'model="m",route="/v1/classify",status="200",version="1"'
    assert found[f"adaresnet_request_duration_seconds_count{{{request}}}"] == 2
    bucket = 'le="0.005",model="m",route="/v1/classify",status="200",version="1"'
    assert found[f"adaresnet_request_duration_seconds_bucket{{{bucket}}}"] == 1
    assert found['adaresnet_batch_size_sum{model="m",version="1"}'] == 4
    assert found['adaresnet_refusals_total{reason="not_found"}'] == 1
    assert found['adaresnet_model_loads_total{model="m",result="failed",version="2"}'] == 1
    assert found["adaresnet_images_in_work"] == 7
    assert not [name for name in found if "_created" in name]


def test_every_metric_is_documented():
    text = (ROOT / "docs" / "metrics.md").read_text()
    lines = Metrics().render().decode().splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) >= 20
    for name in names:
        assert f"`{name}`" in text, name


def test_workers_show_totals_and_a_dead_one_is_still_counted(tmp_path):
    """In processes of their own: how a process keeps its series is settled once in its life."""

    def worker(number: int, *, images: int, in_work: int) -> dict[str, float]:
        script = f"""
from pathlib import Path
from service.engine.metrics import Metrics, share_metrics
share_metrics(Path({str(tmp_path)!r}), {number})
metrics = Metrics(Path({str(tmp_path)!r}))
metrics.version("m", 1).answered({images}, {{}})
metrics.serve([("m", 1, "ab", "CPUExecutionProvider")])
metrics.refresh({in_work})
print(metrics.render().decode())
"""
        command = [sys.executable, "-c", script]
        text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    answered = 'adaresnet_images_total{model="m",outcome="answered",reason="",version="1"}'
    assert worker(0, images=3, in_work=2)[answered] == 3
    second = worker(1, images=4, in_work=5)
    assert second[answered] == 7
    assert second["adaresnet_images_in_work"] == 7
    # The next with the number of a dead one: its counters go on, what it had in work is forgotten.
    third = worker(0, images=10, in_work=1)
    assert third[answered] == 17
    assert third["adaresnet_images_in_work"] == 6
    assert [value for name, value in third.items() if "model_info" in name] == [1]
    assert not [name for name in third if "pid=" in name]
    files = list(tmp_path.glob("counter_*.db"))
    assert len(files) == 2

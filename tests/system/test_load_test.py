"""``adaresnet load-test`` against real processes of the service."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from service.api.auth.keys import line_of, new_key
from tests.conftest import ADARESNET, Exported, Server, draw, free_port, serving

_QUICK = ("--warm-up", "0.2s", "--duration", "1s")


def load_test(url: str, *args: object) -> subprocess.CompletedProcess[str]:
    words = [str(ADARESNET), "load-test", url, *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_rates_are_measured_and_reported(server: Server, tmp_path):
    output, svg = tmp_path / "report.json", tmp_path / "report.svg"
    done = load_test(
        server.url, *_QUICK, "--rate", "40,80", "--arrivals", "constant",
        "--output", output, "--svg", svg,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "32 drawn JPEG pictures of 16 x 16 px" in done.stderr
    rows = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()[1:3]]
    assert [row[0] for row in rows] == ["40.0/s", "80.0/s"]
    report = json.loads(output.read_text())
    assert (report["model"], report["version"], report["passed"]) == ("colors", 1, True)
    assert [row["due"] for row in report["rates"]] == [40, 80]
    assert [row["answered"] for row in report["rates"]] == [40, 80]
    root = ElementTree.parse(svg).getroot()
    assert root.tag.endswith("svg")
    assert "colors version 1" in (root.findtext("{http://www.w3.org/2000/svg}title") or "")


def test_several_of_ones_own_pictures_a_request(server: Server, tmp_path, rng):
    for number in range(3):
        draw("red", rng, (40, 30)).save(tmp_path / f"{number}.png")
    words = ("--images", tmp_path, "--images-per-request", "4", "--rate", "20", "--json")
    done = load_test(server.url, *_QUICK, *words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rates"]
    assert row["images_per_s"] == 4 * row["achieved_per_s"] > 0
    assert report["pictures"] == f"3 pictures from {tmp_path}"


def test_a_gate_that_fails_gives_status_1(server: Server):
    done = load_test(server.url, *_QUICK, "--rate", "20", "--fail-if", "p50>1us")
    assert done.returncode == 1
    assert re.search(r"failed: 20\.0/s: p50 is [0-9.]+ ms; it fails at p50>1us", done.stdout)


def test_the_limit_is_found(server: Server):
    # So short that any machine keeps p99 at the first two rates, and a third would be too much
    # for a load test; some hundred requests in all.
    words = ("--find-limit", "--p99", "5s", "--rate", "30000", "--duration", "0.005s")
    done = load_test(server.url, *words, "--warm-up", "0", "--connections", "16", "--json")
    report = json.loads(done.stdout)
    assert report["limit"]["p99_ms"] == 5000
    # How many this machine answers in five seconds is not for this test to say.
    assert (report["limit"]["requests_per_s"] is not None) is (done.returncode == 0)
    assert len(report["rates"]) >= 2


def test_errors_fail_it_unless_they_are_allowed(exported: Exported, tmp_path, rng):
    picture = tmp_path / "red.png"
    draw("red", rng, (300, 200)).save(picture)
    with serving(exported.repository, tmp_path, "--max-queue-size", "1") as full:
        words = (*_QUICK, "--images", picture, "--rate", "300")
        refused = load_test(full.url, *words)
        assert refused.returncode == 1, refused.stdout + refused.stderr
        assert re.search(r"[0-9]+ x 503 queue_full: ", refused.stdout)
        assert "it fails at errors>0%" in refused.stdout
        allowed = load_test(full.url, *words, "--fail-if", "errors>99%")
        assert allowed.returncode == 0, allowed.stdout


def test_a_stop_prints_what_was_measured_so_far(server: Server, tmp_path):
    output = tmp_path / "report.json"
    words = ("--rate", "50", "--duration", "60s", "--warm-up", "0", "--output", output)
    process = subprocess.Popen(
        [ADARESNET, "load-test", server.url, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "colors version 1" in process.stderr.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "interrupted after" in stdout
    report = json.loads(output.read_text())
    assert report["interrupted"]
    assert report["rates"][0]["answered"] > 0


def test_a_server_that_stops_answering_does_not_hang_it(exported: Exported, tmp_path):
    with serving(exported.repository, tmp_path) as stopped:
        words = ("--rate", "50", "--duration", "2s", "--warm-up", "0", "--timeout", "0.5s")
        process = subprocess.Popen(
            [ADARESNET, "load-test", stopped.url, *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            assert "colors version 1" in process.stderr.readline()
            time.sleep(0.5)
            stopped.process.send_signal(signal.SIGSTOP)
            stdout, _ = process.communicate(timeout=60)
        finally:
            stopped.process.send_signal(signal.SIGCONT)
    assert process.returncode == 1
    (row,) = json.loads(stdout)["rates"]
    assert row["answered"] + row["failed"] == row["due"]
    assert {failure["reason"] for failure in row["failures"]} >= {"no answer within 0.5 s"}


def test_a_key_goes_with_every_request(exported: Exported, tmp_path):
    key = new_key()
    with serving(
        exported.repository, tmp_path, "--api-keys", line_of("me", key, ["predict"])
    ) as own:
        refused = load_test(own.url)
        assert refused.returncode == 1
        assert "401" in refused.stderr
        words = [str(ADARESNET), "load-test", own.url, *_QUICK, "--rate", "20"]
        environment = {**os.environ, "ADARESNET_API_KEY": key}
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert key not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("ftp://x",), "no address"),
        (("localhost:1", "--rate", "0"), "'0' is not a number of requests"),
        (("localhost:1", "--rate", "ten"), "'ten' is not a number of requests"),
        (("localhost:1", "--duration", "10"), "'10' is not a duration"),
        (("localhost:1", "--fail-if", "p99=1"), "p99>50ms"),
        (("localhost:1", "--find-limit"), "go together"),
        (("localhost:1", "--images", "/nowhere"), "does not exist"),
        (("localhost:1", "--output", "/nowhere/x.json"), "can't be written"),
        ((), "URL"),
    ],
)
def test_wrong_usage_is_status_2_and_one_line(args, words):
    done = subprocess.run(
        [ADARESNET, "load-test", *args], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nobody_there_is_one_line():
    done = load_test(f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "can't be asked" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_it_runs_with_the_base_install(server: Server):
    script = f"""
import sys
for name in ("numpy", "PIL", "pydantic", "pydantic_settings", "fastapi", "starlette", "uvicorn",
             "uvloop", "onnxruntime", "orjson", "httptools", "prometheus_client"):
    sys.modules[name] = None  # importing it now fails
from service.commands.load_test import load_test
sys.exit(load_test([{server.url!r}, "--rate", "20", "--duration", "0.5s"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "ANSWERED/S" in done.stdout

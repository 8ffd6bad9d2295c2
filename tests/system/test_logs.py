"""The log of a real process: every line of it, in each form."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ADARESNET, Exported, draw, free_port, serving
from tests.system.prometheus import eventually
from tests.system.test_workers import two_workers

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("start", [serving, two_workers])
def test_where_nobody_reads_every_line_is_json(exported: Exported, tmp_path, rng, start):
    buffer = io.BytesIO()
    draw("red", rng).save(buffer, "PNG")
    with start(exported.repository, tmp_path, "--log-format", "auto") as server:
        with server.client() as client:
            mine = {"X-Request-ID": "mine-1", "traceparent": TRACEPARENT}
            answer = client.post("/v1/classify", content=buffer.getvalue(), headers=mine)
            assert answer.headers["x-request-id"] == "mine-1"
            hostile = {"X-Request-ID": 'x" forged', "traceparent": "00-" + "z" * 32 + "-1-01"}
            other = client.get("/v1/models/none%0a%22", headers=hostile)
            assert other.status_code == 404
        eventually(lambda: "none%0a" in server.log.read_text())
    found = lines(server.log)
    assert all({"time", "level", "logger", "process", "message"} <= line.keys() for line in found)
    assert {line["logger"] for line in found} >= {"uvicorn.error", "service.access"}
    first, second = (line for line in found if line["logger"] == "service.access")
    assert first["message"].startswith("POST /v1/classify 200 ")
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/classify", 200)
    assert first["duration_ms"] > 0
    assert (first["request_id"], first["trace_id"]) == ("mine-1", TRACE)
    assert second["path"] == "/v1/models/none%0a%22"
    assert second["request_id"] == other.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]+", second["request_id"])
    assert "trace_id" not in second


def test_a_line_about_an_error_leads_to_its_request(exported: Exported, tmp_path):
    flags = ("--log-format", "json", "--request-timeout-s", "0.05")
    with serving(exported.repository, tmp_path, *flags) as server, server.client() as client:
        mine = {"X-Request-ID": "late-1", "traceparent": TRACEPARENT}
        slow = io.BytesIO()
        Image.fromarray(np.zeros((6000, 6000), np.uint16)).save(slow, "PNG")
        answer = client.post("/v1/classify", content=slow.getvalue(), headers=mine)
        assert answer.json()["code"] == "deadline_exceeded"
        eventually(lambda: "deadline_exceeded" in server.log.read_text())
    (told,) = (line for line in lines(server.log) if "deadline_exceeded" in line["message"])
    assert told["logger"] == "service.api.errors"
    assert (told["request_id"], told["trace_id"]) == ("late-1", TRACE)


def test_on_a_terminal_lines_are_to_read(exported: Exported):
    port = free_port()
    ours, theirs = pty.openpty()
    command = [str(ADARESNET), "serve", "--models", str(exported.repository), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if "LOG_FORMAT" not in name}
    process = subprocess.Popen(command, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        text = ""
        until_s = time.monotonic() + 60
        while "is ready" not in text:
            assert time.monotonic() < until_s
            text += os.read(ours, 4096).decode()
        httpx.get(f"http://127.0.0.1:{port}/v1/models")
        while "GET /v1/models 200" not in text:
            assert time.monotonic() < until_s
            text += os.read(ours, 4096).decode()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        os.close(ours)
    assert "{" not in text
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in text.splitlines())


def test_an_exception_that_nobody_caught_is_one_line(tmp_path):
    script = """
import threading, warnings
from service.logs import set_up_logs
set_up_logs("info", "json", several=False)
warnings.warn("odd", stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
raise RuntimeError("end")
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    python = ADARESNET.parent / "python"
    result = subprocess.run([python, path], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    warned, thread, process = (json.loads(line) for line in result.stderr.splitlines())
    assert warned["logger"] == "py.warnings"
    assert "UserWarning: odd" in warned["message"]
    assert "worker" in thread["message"]
    assert "ZeroDivisionError" in thread["exception"]
    assert process["exception"].endswith("RuntimeError: end")

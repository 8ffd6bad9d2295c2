"""What an orchestrator sees of a real process from its start to its end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import ADARESNET, LOG_TO_READ, Exported, Server, draw, free_port, serving
from tests.service.api.test_connection import Talk, sized
from tests.system.prometheus import eventually

post = functools.partial(httpx.post, timeout=60, verify=False)


def status(url: str, path: str) -> int:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}{path}", verify=False).status_code  # no certificates to read
    return 0


def says(server: Server, path: str, text: str) -> bool:
    return text in httpx.get(f"{server.url}{path}").text


@pytest.fixture
def png(rng) -> bytes:
    buffer = io.BytesIO()
    draw("red", rng).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def starting(models: Path, folder: Path, *flags: str) -> Iterator[Server]:
    """A server that listens, and need not be ready."""
    port, log = free_port(), folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ADARESNET, "serve", "--models", models, "--port", str(port), *flags],
            stderr=output,
            env={**LOG_TO_READ, **os.environ},
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        eventually(lambda: status(server.url, "/healthz") == 200, 60)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def test_started_and_ready_come_with_the_first_model_and_live_before(exported, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    with starting(models, tmp_path, "--repository-poll-s", "0.1") as server:
        for path in ("/startupz", "/readyz"):
            eventually(functools.partial(says, server, path, "no model"))
            assert status(server.url, path) == 503
            assert httpx.head(f"{server.url}{path}").status_code == 503
        shutil.copytree(exported.repository / "colors", tmp_path / "aside")
        (tmp_path / "aside").rename(models / "colors")
        eventually(lambda: status(server.url, "/readyz") == 200)
        assert status(server.url, "/startupz") == 200
        shutil.rmtree(models / "colors")
        eventually(lambda: status(server.url, "/readyz") == 503)
        assert status(server.url, "/startupz") == 200  # it has started once and for all
        assert status(server.url, "/healthz") == 200


def test_one_broken_model_keeps_only_strict_services_from_being_ready(exported, tmp_path, png):
    models = tmp_path / "models"
    shutil.copytree(exported.repository, models)
    broken = models / "a-broken-one" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"broken")
    with serving(models, tmp_path) as server, server.client() as client:
        # The first by name can't answer, and so is not the default.
        assert client.post("/v1/classify", content=png).json()["model"] == "colors"
        refused = client.post("/v1/classify?model=a-broken-one", content=png)
        assert (refused.status_code, refused.json()["code"]) == (503, "model_not_ready")
        assert "a-broken-one" in server.log.read_text()
    for flags, reason in (
        (("--strict-readiness",), "can't answer: a-broken-one"),
        (("--default-model", "a-broken-one"), "can't answer: a-broken-one"),
    ):
        folder = tmp_path / flags[0]
        folder.mkdir()
        with starting(models, folder, *flags) as server:
            eventually(functools.partial(says, server, "/readyz", reason))
            assert "model a-broken-one version 1 is not served" in server.log.read_text()
            answer = post(f"{server.url}/v1/classify?model=colors", content=png)
            assert answer.status_code == 200  # who asks is answered all the same


def test_sigterm_is_seen_before_the_port_is_closed(exported: Exported, tmp_path, png):
    flags = ("--drain-delay-s", "3")
    with serving(exported.repository, tmp_path, *flags) as server, server.client() as kept:
        assert kept.get("/readyz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: status(server.url, "/readyz") == 503)
        assert "stopping" in httpx.get(f"{server.url}/readyz").json()["status"]
        assert status(server.url, "/healthz") == 200
        # Those who don't know yet are answered, and told to go elsewhere with the next request.
        answer = post(f"{server.url}/v1/classify", content=png)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        assert kept.post("/v1/classify", content=png).status_code == 200
        assert server.process.wait(30) == 0
        assert status(server.url, "/healthz") == 0


def test_readiness_is_denied_as_long_as_requests_are_finished(exported: Exported, tmp_path, png):
    with (
        serving(exported.repository, tmp_path, "--drain-delay-s", "0") as server,
        Talk(server) as pending,
    ):
        pending.say(sized(png, b"Expect: 100-continue\r\n").removesuffix(png))
        assert pending.hear().status == 100  # it is under way, and its body is still to come
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: status(server.url, "/readyz") == 503)

        def refused() -> httpx.Response:
            return post(f"{server.url}/v1/classify", content=png)

        eventually(lambda: refused().json().get("code") == "stopping")
        assert refused().status_code == 503
        assert "retry-after" in refused().headers
        assert status(server.url, "/readyz") == 503
        pending.say(png)
        assert pending.hear().status == 200
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_who_is_impatient_does_not_wait(exported: Exported, tmp_path, signals):
    with serving(exported.repository, tmp_path, "--drain-delay-s", "300") as server:
        for number in signals:
            server.process.send_signal(number)
            time.sleep(0.5)
        assert server.process.wait(30) == 0


def test_every_worker_waits_for_balancers(exported: Exported, tmp_path, png):
    flags = ("--workers", "2", "--drain-delay-s", "6")
    with serving(exported.repository, tmp_path, *flags) as server:

        def ready_everywhere() -> bool:
            return {status(server.url, "/readyz") for _ in range(16)} == {200}

        eventually(ready_everywhere)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert {status(server.url, "/readyz") for _ in range(16)} == {503}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            url = f"{server.url}/v1/classify"
            answers = [pool.submit(post, url, content=png) for _ in range(16)]
            assert {answer.result().status_code for answer in answers} == {200}
        assert server.process.wait(30) == 0


def test_a_stop_while_models_are_loaded_is_no_failure_of_theirs(exported: Exported, tmp_path):
    models = tmp_path / "models"
    for number in range(20):
        shutil.copytree(exported.repository / "colors", models / f"colors{number}")
    for wait_s in (0.0, 0.3, 1.0):
        with starting(models, tmp_path) as server:
            time.sleep(wait_s)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
            log = server.log.read_text()
            assert "is not served" not in log
            assert "is gone" not in log
            assert "Traceback" not in log


def test_a_large_array_is_answered_while_it_stops(exported: Exported, tmp_path):
    """What was read in part is read to its end."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2000, 16, 16, 3), np.uint8))
    body = buffer.getvalue()
    more = b"Content-Type: application/x-npy\r\nExpect: 100-continue\r\n"
    with (
        serving(exported.repository, tmp_path, "--drain-delay-s", "0") as server,
        Talk(server) as talk,
    ):
        talk.say(sized(body, more).removesuffix(body))
        assert talk.hear().status == 100
        talk.say(body[:100_000])
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: status(server.url, "/readyz") == 503)
        talk.say(body[100_000:])
        answer = talk.hear()
        assert answer.status == 200
        assert len(json.loads(answer.body)["results"]) == 2000
        assert server.process.wait(30) == 0

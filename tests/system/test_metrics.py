"""What ``/metrics`` of a real process says about what clients did to it."""

from __future__ import annotations

import base64
import contextlib
import io
import shutil
import socket
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import MODELS, Exported, Server, draw, serving
from tests.system.prometheus import eventually, images, requests, scrape, total

# One run at a time, of one image: so slow that what is queued can be seen to be dropped.
SLOW = ("--device", "cpu", "--instances", "1", "--threads", "1", "--max-batch-size", "1")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory):
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / "cifar10", models / "cifar10")
    folder = tmp_path_factory.mktemp("slow")
    with serving(models, folder, *SLOW, "--log-level", "info") as running:
        yield running


def array_of(count: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((count, 32, 32, 3), np.uint8))
    return buffer.getvalue()


def send(server: Server, body: bytes) -> socket.socket:
    """Post a body whole, and don't wait for the answer."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def is_idle(server: Server) -> bool:
    return scrape(server.url)["adaresnet_images_in_work", frozenset()] == 0


@pytest.mark.parametrize(("clients", "each"), [(40, 25), (1, 1000)])
def test_images_of_clients_that_hang_up_are_never_run_and_counted(slow: Server, clients, each):
    eventually(lambda: is_idle(slow))
    before = scrape(slow.url)
    body = array_of(each)
    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(send(slow, body))
        time.sleep(0.3)
        assert not is_idle(slow)
    eventually(lambda: is_idle(slow))

    def gained(name: str, **labels: str) -> float:
        return total(scrape(slow.url), name, **labels) - total(before, name, **labels)

    # Of a large request only a part is taken in at a time.
    least = 1000 if clients > 1 else 200
    eventually(lambda: gained("adaresnet_images_total") >= least)
    received = gained("adaresnet_images_total")
    never_run = gained("adaresnet_images_total", outcome="never_run", reason="client_gone")
    ran = gained("adaresnet_batch_size_sum")
    assert received <= 1000
    assert never_run == received - ran
    assert ran < 700
    # Those that had run are not among them, whether or not their client was still there.
    answered = gained("adaresnet_images_total", outcome="answered")
    left_too_late = gained("adaresnet_images_total", outcome="unanswered", reason="client_gone")
    assert answered + left_too_late == ran
    time.sleep(0.5)
    assert gained("adaresnet_batch_size_sum") == ran  # nobody runs them later


def test_images_are_counted_by_what_became_of_them(slow: Server, rng):
    eventually(lambda: is_idle(slow))
    before = scrape(slow.url)
    buffer = io.BytesIO()
    draw("red", rng, (32, 32)).save(buffer, "PNG")
    good = base64.b64encode(buffer.getvalue()).decode()
    with slow.client() as client:
        assert client.post("/v1/classify", content=buffer.getvalue()).status_code == 200
        assert client.post("/v1/classify", content=b"junk").status_code == 422
        mixed = {"images": [good] * 9 + ["eA=="]}
        assert client.post("/v1/classify", json=mixed).status_code == 422
        skipped = client.post("/v1/classify", params={"on_error": "skip"}, json=mixed)
        assert skipped.status_code == 200
        hurry = {"X-Request-Timeout": "100ms"}
        late = client.post("/v1/classify", content=array_of(1000), headers=hurry)
        assert late.status_code == 504
        assert client.get("/v1/models/%C3%BCnknown").status_code == 404
        assert client.get("/made/up/by/a/client").status_code == 404
    after = scrape(slow.url)

    def gained(outcome: str, **labels: str) -> float:
        return images(after, outcome, **labels) - images(before, outcome, **labels)

    assert gained("answered") == 1 + 9
    assert gained("failed", reason="image_undecodable") == 3
    assert gained("never_run", reason="request_failed") == 9
    late_ones = gained("never_run", reason="deadline") + gained("unanswered", reason="deadline")
    assert 100 < late_ones <= 1000
    assert gained("never_run", reason="deadline") > 20
    for status, count in (("200", 2), ("422", 2), ("504", 1)):
        assert requests(after, status=status) - requests(before, status=status) == count
    for reason, count in (("image_undecodable", 1), ("invalid_images", 1), ("not_found", 1)):
        name = "adaresnet_refusals_total"
        assert total(after, name, reason=reason) - total(before, name, reason=reason) == count
    routes = {dict(labels).get("route") for _, labels in after}
    assert routes - {None} <= {"/v1/classify", "/v1/models/{name}", "/metrics", "/readyz", "other"}


def test_refused_images_are_counted(exported: Exported, tmp_path):
    with serving(exported.repository, tmp_path, "--max-queue-size", "1") as server:
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((3000, 3000), np.uint16)).save(buffer, "PNG")
        with send(server, buffer.getvalue()):
            eventually(lambda: not is_idle(server))
            assert httpx.post(f"{server.url}/v1/classify", content=b"x").status_code == 503
        series = scrape(server.url)
        assert images(series, "refused", reason="queue_full", model="colors") == 1
        assert total(series, "adaresnet_refusals_total", reason="queue_full") == 1


def test_models_that_come_and_go_are_shown_with_the_provider_that_runs(exported, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(exported.repository, models)
    flags = ("--repository-poll-s", "0.1", "--device", "cpu")

    def served() -> set[tuple[str, str]]:
        rows = [dict(labels) for name, labels in scrape(server.url) if name.endswith("model_info")]
        assert {row["provider"] for row in rows} <= {"CPUExecutionProvider"}
        return {(row["version"], row["digest"][:0]) for row in rows}

    with serving(models, tmp_path, *flags) as server:
        assert served() == {("1", "")}
        shutil.copytree(models / "colors" / "1", tmp_path / "2")
        (tmp_path / "2").rename(models / "colors" / "2")
        broken = models / "colors" / "3"
        broken.mkdir()
        (broken / "model.onnx").write_bytes(b"broken")
        eventually(lambda: served() == {("1", ""), ("2", "")})
        shutil.rmtree(models / "colors" / "1")
        eventually(lambda: served() == {("2", "")})
        loads = scrape(server.url)
        name = "adaresnet_model_loads_total"
        assert total(loads, name, version="2", result="succeeded") == 1
        assert total(loads, name, version="3", result="failed") >= 1
        assert "/metrics" not in server.log.read_text()

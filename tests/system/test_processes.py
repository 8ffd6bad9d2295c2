"""Real processes: the command line, start and stop, models that come and go."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from service.engine.session import cuda_built_in
from tests.conftest import ADARESNET, CLASSES, Exported, Server, draw, free_port, serving
from tests.system.prometheus import eventually, scrape, total


def adaresnet(*args: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(ADARESNET), *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)


def test_the_whole_line_from_a_folder_of_pictures_to_an_answer(image_folder, tmp_path, rng):
    run, models = tmp_path / "run", tmp_path / "models"
    trained = adaresnet(
        "train", "--data", image_folder, "--out", run, "--network", "resnet8", "--epochs", "3",
        "--batch-size", "32", "--learning-rate", "0.05", "--shift-px", "1", "--device", "cpu",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "test accuracy" in trained.stdout
    exported = adaresnet("export", run, "--name", "colors", "--models", models)
    assert exported.returncode == 0, exported.stderr
    for words in ("largest absolute difference", "operators before", "operators after", "ONNX"):
        assert words in exported.stdout
    assert (models / "colors" / "1" / "model.onnx").is_file()
    with serving(models, tmp_path) as server, server.client() as client:
        for name in CLASSES:
            buffer = io.BytesIO()
            draw(name, rng, (64, 48)).save(buffer, "JPEG")
            answer = client.post("/v1/classify", content=buffer.getvalue())
            assert answer.json()["results"][0]["predictions"][0]["label"] == name


def test_resume_continues_a_finished_run_without_harm(trained_run, image_folder, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    result = adaresnet(
        "train", "--data", image_folder, "--out", tmp_path / "run", "--resume",
        "--network", "resnet8", "--epochs", "4", "--batch-size", "32",
        "--learning-rate", "0.05", "--shift-px", "1", "--device", "cpu",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "after 4 epochs" in result.stdout


def test_classify_here_and_through_a_server(exported: Exported, server, tmp_path, rng, run_here):
    picture, junk = tmp_path / "red.png", tmp_path / "junk.png"
    draw("red", rng).save(picture)
    junk.write_bytes(b"junk")
    here, there = ("--models", exported.repository), ("--url", server.url)
    said = [run_here("classify", picture, *source, "--json") for source in (here, there)]
    assert [status for status, _, _ in said] == [0, 0], said
    ours, theirs = (json.loads(output) for _, output, _ in said)
    assert ours["path"] == str(picture)
    assert ours == theirs
    assert ours["label"] == "red"
    status, table, errors = run_here("classify", picture, junk, *here, "--top-k", "1")
    assert status == 1
    assert "red" in table.splitlines()[0]
    assert "junk.png" in errors


def test_models_lists_a_repository_or_a_server(exported: Exported, server, run_here):
    for source in (("--models", exported.repository), ("--url", server.url)):
        status, table, errors = run_here("models", *source)
        assert status == 0, errors
        assert "colors" in table
        (row,) = json.loads(run_here("models", *source, "--json")[1])
        assert row["name"] == "colors"


def test_wrong_usage_ends_in_one_line(tmp_path, exported: Exported, run_here):
    for args, word in (
        (("classify", tmp_path / "none.png", "--models", exported.repository), "none.png"),
        (("classify", "x.png", "--top-k", "0"), "top-k"),
        (("classify", __file__, "--url", f"http://127.0.0.1:{free_port()}"), "refused"),
        (("models", "--models", tmp_path / "none"), "none"),
        (("train", "--epochs", "2"), "data"),
        (("train", "--data", tmp_path, "--recipe", "unheard-of"), "mnist"),
    ):
        status, _, errors = run_here(*args)
        assert status in (1, 2), args
        assert word in errors.lower(), (args, errors)
        assert len(errors.strip().splitlines()) == 1, errors
    for words, word in (
        (("nonsense",), "nonsense"),
        (("serve", "--port", "70000"), "port"),
        (("serve", "--models", tmp_path / "none"), "none"),
        (("export", tmp_path / "none", "--name", "x"), "no checkpoint"),
    ):
        result = adaresnet(*words)
        assert result.returncode in (1, 2), words
        assert word in result.stderr.lower(), (words, result.stderr)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert adaresnet("--help").returncode == 0
    assert adaresnet("--version").stdout.strip()


@pytest.mark.skipif(cuda_built_in(), reason="this ONNX Runtime has a CUDA provider")
def test_a_demanded_gpu_that_is_not_there_ends_the_process(exported: Exported):
    flags = ("serve", "--models", exported.repository, "--port", free_port())
    result = adaresnet(*flags, env={**os.environ, "ADARESNET_DEVICE": "cuda"})
    assert result.returncode == 1
    assert "adaresnet[gpu]" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_the_body_of_a_request_that_offers_an_upgrade_is_read(client, rng, protocol):
    buffer = io.BytesIO()
    draw("green", rng).save(buffer, "PNG")
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AA"}
    answer = client.post("/v1/classify", content=buffer.getvalue(), headers=headers)
    assert answer.status_code == 200
    assert answer.json()["results"][0]["predictions"][0]["label"] == "green"


def test_a_head_that_never_ends_is_refused(server):
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(b"x" * 10_000)
        with contextlib.suppress(ConnectionError):
            assert b" 431 " in connection.recv(4096)


def test_a_log_line_can_not_be_forged(server: Server):
    httpx.get(f"{server.url}/x%0aforged%1b%00")
    eventually(lambda: "forged" in server.log.read_text())  # it is written behind the answer
    lines = server.log.read_text().splitlines()
    assert not [line for line in lines if line.startswith("forged")]
    assert [line for line in lines if "/x%0aforged" in line]


def test_flags_of_commands_have_twins_in_the_environment(exported: Exported, tmp_path, rng):
    picture = tmp_path / "red.png"
    draw("red", rng).save(picture)
    twins = {
        "ADARESNET_MODELS": str(exported.repository),
        "ADARESNET_TOP_K": "2",
        "ADARESNET_MODEL": "colors",
        "ADARESNET_JSON": "1",
    }
    result = adaresnet("classify", picture, env={**os.environ, **twins})
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["labels"]) == 2
    for name, value in (("TOP_K", "many"), ("DEVICE", "tpu")):
        env = {**os.environ, **twins, f"ADARESNET_{name}": value}
        wrong = adaresnet("classify", picture, env=env)
        assert wrong.returncode in (1, 2)
        assert value in wrong.stderr


def test_a_port_that_is_taken_ends_the_process(exported: Exported, server):
    port = server.url.rpartition(":")[2]
    result = adaresnet("serve", "--models", exported.repository, "--port", port)
    assert result.returncode == 1
    assert "address already in use" in result.stderr.lower()


def test_versions_come_and_go_under_load_without_a_failed_answer(exported: Exported, tmp_path, rng):
    models = tmp_path / "models"
    shutil.copytree(exported.repository, models)
    pictures = {}
    for name in CLASSES:
        buffer = io.BytesIO()
        draw(name, rng).save(buffer, "PNG")
        pictures[name] = buffer.getvalue()
    with serving(models, tmp_path, "--repository-poll-s", "0.1") as server:
        swapped = threading.Event()

        def load(name: str) -> tuple[int, set[int]]:
            count, versions = 0, set()
            with server.client() as client:
                while not swapped.is_set():
                    answer = client.post("/v1/classify", content=pictures[name])
                    assert answer.status_code == 200, answer.text
                    body = answer.json()
                    assert body["results"][0]["predictions"][0]["label"] == name
                    versions.add(body["version"])
                    count += 1
            return count, versions

        def default_version() -> int:
            found: int = httpx.get(f"{server.url}/v1/models/colors").json()["default_version"]
            return found

        def swap() -> None:
            for _ in range(3):
                aside = models / "colors" / "aside"
                shutil.copytree(models / "colors" / "1", aside)
                aside.rename(models / "colors" / "2")
                broken = models / "colors" / "3"
                broken.mkdir()
                (broken / "model.onnx").write_bytes(b"broken")
                eventually(lambda: default_version() == 2)
                time.sleep(0.2)
                shutil.rmtree(models / "colors" / "2")
                shutil.rmtree(broken)
                eventually(lambda: default_version() == 1)
                time.sleep(0.2)

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            loading = [pool.submit(load, name) for name in CLASSES]
            try:
                swap()
            finally:
                swapped.set()
            results = [task.result() for task in loading]
        assert sum(count for count, _ in results) > 50
        assert set.union(*(versions for _, versions in results)) == {1, 2}


def slow_picture() -> bytes:
    """Some hundred bytes that take a good part of a tenth of a second to decode: 9 megapixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@contextlib.contextmanager
def occupied(server: Server, count: int = 600) -> Iterator[socket.socket]:
    """Keep a server with --max-queue-size 1 busy; yields the connection, its answer not read."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    body = json.dumps({"images": [base64.b64encode(slow_picture()).decode()] * count}).encode()
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        eventually(lambda: total(scrape(server.url), "adaresnet_images_in_work") == 1)
        yield connection


def status_line(connection: socket.socket) -> bytes:
    connection.settimeout(60)
    return connection.recv(4096).partition(b"\r\n")[0]


def test_sigterm_answers_what_was_taken_and_exits_0(exported: Exported, tmp_path):
    with serving(exported.repository, tmp_path, "--max-queue-size", "1") as server:
        with occupied(server, 10) as pending:
            server.process.send_signal(signal.SIGTERM)
            assert b" 200 " in status_line(pending)
        assert server.process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_after_the_start_stops_the_process(exported: Exported, tmp_path, stop):
    command = [str(ADARESNET), "serve", "--models", str(exported.repository), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    while b"listening on" not in process.stderr.readline():
        pass
    process.send_signal(stop)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_overload_is_503_and_a_deadline_504(exported: Exported, tmp_path, rng):
    flags = ("--max-queue-size", "1", "--request-timeout-s", "3")
    with serving(exported.repository, tmp_path, *flags) as server, server.client() as client:
        with occupied(server) as busy:
            full = client.post("/v1/classify", content=b"x")
            assert full.status_code == 503
            assert full.json()["code"] == "queue_full"
            assert int(full.headers["retry-after"]) >= 1
            assert client.get("/readyz").status_code == 200
            assert b" 504 " in status_line(busy)
        buffer = io.BytesIO()
        draw("red", rng).save(buffer, "PNG")
        assert client.post("/v1/classify", content=buffer.getvalue()).status_code == 200


def test_work_of_a_client_that_hangs_up_is_dropped(exported: Exported, tmp_path):
    with serving(exported.repository, tmp_path, "--max-queue-size", "1") as server:
        with occupied(server):
            pass
        # Its place is free at once, not after the seconds that its pictures would take.
        started = time.monotonic()
        while httpx.post(f"{server.url}/v1/classify", content=b"x").status_code == 503:
            time.sleep(0.02)
        assert time.monotonic() - started < 2
    log = server.log.read_text()  # complete when the process has ended
    assert "Traceback" not in log
    assert " 499 " in log


@pytest.fixture(scope="module")
def limited(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes small requests of few images only."""
    flags = ("--max-body-bytes", "5000", "--max-images", "2")
    with serving(exported.repository, tmp_path_factory.mktemp("limited"), *flags) as server:
        yield server


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(limited: Server, chunked):
    body = iter([b"x" * 2000] * 3) if chunked else b"x" * 6000
    with limited.client() as client:
        answer = client.post("/v1/classify", content=body)
        assert answer.status_code == 413
        assert answer.json()["code"] == "request_too_large"
        assert "5000" in answer.json()["detail"]
        assert client.get("/healthz").status_code == 200


def test_too_many_images_are_413(limited: Server):
    three = io.BytesIO()
    np.save(three, np.zeros((3, 16, 16, 3), np.uint8))
    with limited.client() as client:
        for answer in (
            client.post("/v1/classify", files=[("f", ("x.png", b"x"))] * 3),
            client.post("/v1/classify", json={"images": ["eA=="] * 3}),
            client.post("/v1/classify", content=three.getvalue()),
        ):
            assert answer.status_code == 413, answer.text
            assert answer.json()["code"] == "request_too_large"
            assert "images" in answer.json()["detail"]

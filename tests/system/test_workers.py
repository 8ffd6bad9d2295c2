"""Several processes on one port: what clients see of them, and what becomes of their counts."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.engine.session import cuda_built_in
from tests.conftest import ADARESNET, CLASSES, ROOT, Exported, Server, draw, serving
from tests.system.prometheus import Series, eventually, images, requests, scrape, total

# A worker, without its parent, that is to take the place of another and can't use its device.
REPLACEMENT = """
import socket, sys
from pathlib import Path
from service.api.auth.rates import SharedRates
from service.commands.serve import _work
from service.settings import load_settings
from service.workers import Seat

settings = load_settings(["--device", "cuda", "--models", sys.argv[1]], program="a test")
listener = socket.create_server(("127.0.0.1", 0))
parents = listener.dup()
parent, tie = socket.socketpair()
_work(settings, Seat(1, (listener,), tie, True), Path(sys.argv[2]), SharedRates())
tie.close()
for report in parent.recv(4096).decode().splitlines():
    print(report.partition(" ")[0])
socket.create_connection(parents.getsockname(), timeout=10)
print("connected")
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(stat.parent.name))
    return found


def ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz", timeout=30, verify=False).status_code == 200
    return False


def log(server: Server) -> str:
    return server.log.read_text()


def serve(exported: Exported, *flags: str) -> list[str]:
    return [str(ADARESNET), "serve", "--models", str(exported.repository), *flags]


def connect(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=30, verify=False)  # no certificates to read


@contextlib.contextmanager
def two_workers(models: Path, folder: Path, *flags: str) -> Iterator[Server]:
    with serving(models, folder, "--workers", "2", *flags) as server:
        # Each worker says for itself that it is ready; a new connection may lead to either.
        eventually(lambda: all(ready(server.url) for _ in range(12)))
        yield server


@pytest.fixture(scope="module")
def pair(exported: Exported, tmp_path_factory: pytest.TempPathFactory):
    with two_workers(exported.repository, tmp_path_factory.mktemp("pair")) as server:
        yield server


@pytest.fixture
def pictures(rng) -> dict[str, bytes]:
    made = {}
    for name in CLASSES:
        buffer = io.BytesIO()
        draw(name, rng).save(buffer, "PNG")
        made[name] = buffer.getvalue()
    return made


class Load:
    """Clients that go on asking; a new connection every ten requests."""

    def __init__(self, url: str, pictures: dict[str, bytes], clients: int = 6) -> None:
        self.right, self.broken, self.wrong = 0, 0, list[str]()
        self._url, self._pictures = url, pictures
        self._end, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        while not self._end.is_set():
            with connect(self._url) as client:
                for name in [*CLASSES, *CLASSES, *CLASSES, "red"]:
                    self._note(client, name)

    def _note(self, client: httpx.Client, name: str) -> None:
        try:
            answer = client.post("/v1/classify", content=self._pictures[name])
        except httpx.TransportError:
            with self._lock:
                self.broken += 1
            return
        body = answer.json()
        good = answer.status_code == 200
        with self._lock:
            if good and body["results"][0]["predictions"][0]["label"] == name:
                self.right += 1
            else:
                self.wrong.append(answer.text)


def test_any_worker_tells_the_totals_of_all(pair: Server, pictures):
    before = scrape(pair.url)

    def ask(number: int) -> None:
        with connect(pair.url) as client:
            assert client.post("/v1/classify", content=pictures["red"]).status_code == 200
            assert client.post("/v1/classify", content=b"junk").status_code == 422
            files = [("f", (f"{name}.png", data)) for name, data in pictures.items()]
            assert client.post("/v1/classify", files=files).status_code == 200
            assert client.post("/v1/classify?model=none", content=b"x").status_code == 404

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(100)))
    gained = ("200", 200), ("422", 100), ("404", 100)
    # A worker counts a request when its answer is written, which the client may be quicker to read.
    eventually(lambda: requests(scrape(pair.url)) - requests(before) == 400)
    for _ in range(8):
        after = scrape(pair.url)
        for status, count in gained:
            assert requests(after, status=status) - requests(before, status=status) == count
        assert images(after, "answered") - images(before, "answered") == 400
        assert images(after, "failed") - images(before, "failed") == 100
        for reason in ("model_not_found", "image_undecodable"):
            name = "adaresnet_refusals_total"
            assert total(after, name, reason=reason) - total(before, name, reason=reason) == 100
        assert (
            total(after, "adaresnet_batch_size_sum") - total(before, "adaresnet_batch_size_sum")
            == 400
        )
        assert total(after, "adaresnet_model_info", model="colors") == 1
        assert total(after, "adaresnet_model_loads_total", result="succeeded") == 2

    def predicted(series: Series) -> dict[str, float]:
        name = "adaresnet_predictions_total"
        found = {label: total(series, name, **{"class": label}) for label in CLASSES}
        return found | {"all": total(series, name)}

    # 100 red pictures alone, and 100 of each class together; counted some at a time.
    eventually(lambda: predicted(scrape(pair.url))["all"] - predicted(before)["all"] == 400)
    for _ in range(8):
        after = scrape(pair.url)
        gained_of = {
            label: count - predicted(before)[label] for label, count in predicted(after).items()
        }
        assert gained_of == {"red": 200, "green": 100, "blue": 100, "all": 400}
        assert total(after, "adaresnet_confidence_count") == predicted(after)["all"]
        assert total(after, "adaresnet_queue_images") == 0
        busy_or_idle = [total(after, "adaresnet_instances", state=one) for one in ("busy", "idle")]
        assert sum(busy_or_idle) >= 2
        assert total(after, "process_resident_memory_bytes") > 2**26
        assert total(after, "process_cpu_seconds_total") > 0.1


def test_a_worker_that_is_killed_is_replaced_and_harms_only_what_it_had(pair: Server, pictures):
    workers = children(pair.process.pid)
    assert len(workers) == 2
    victim = min(workers)
    clients = 6
    counts: list[float] = []
    with Load(pair.url, pictures, clients) as load:
        eventually(lambda: load.right > 100)
        counts.append(requests(scrape(pair.url), status="200"))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(children(pair.process.pid) - {victim}) == 2)
        new = children(pair.process.pid) - workers
        eventually(lambda: f"{min(new)} INFO uvicorn.error Application startup" in log(pair))
        for _ in range(5):
            counts.append(requests(scrape(pair.url), status="200"))
            time.sleep(0.1)
    assert load.wrong == []
    assert load.broken <= clients  # each had one request on its way at most
    counts.append(requests(scrape(pair.url), status="200"))
    assert counts == sorted(counts)
    assert counts[-1] >= load.right
    assert "was ended by SIGKILL" in log(pair)
    assert total(scrape(pair.url), "adaresnet_model_info", model="colors") == 1


def test_sighup_replaces_all_workers_without_a_failed_request(pair: Server, pictures):
    workers = children(pair.process.pid)
    before = requests(scrape(pair.url), status="200")
    with Load(pair.url, pictures) as load:
        pair.process.send_signal(signal.SIGHUP)

        def replaced() -> bool:
            now = children(pair.process.pid)
            return len(now) == 2 and not now & workers

        eventually(replaced, timeout_s=30)
        asked = load.right
        eventually(lambda: load.right > asked + 50)
    assert load.wrong == []
    assert load.broken == 0
    eventually(lambda: requests(scrape(pair.url), status="200") - before == load.right)


def test_a_connection_of_a_replaced_worker_ends_behind_an_answer_that_says_so(
    pair: Server, pictures
):
    """An answer in lines that has begun can't say it any more, so the next one has to."""
    line = json.dumps(base64.b64encode(pictures["red"]).decode()).encode() + b"\n"
    chunk = b"%x\r\n%b\r\n" % (len(line), line)
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n"
    kinds = b"Content-Type: application/x-ndjson\r\nAccept: application/x-ndjson\r\n"
    body = pictures["red"]
    single = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    port = int(pair.url.rpartition(":")[2])
    workers = children(pair.process.pid)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head + kinds + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        assert b" 200 " in connection.recv(65536)
        pair.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            connection.sendall(chunk)
            connection.recv(65536)
            time.sleep(0.1)
        connection.sendall(b"0\r\n\r\n")
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += connection.recv(65536)
        told = False
        while not told:
            connection.sendall(single)
            answer = b""
            while not answer.endswith(b"]}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            told = b"connection: close" in answer
            time.sleep(0.05)
        assert connection.recv(100) == b""
    eventually(lambda: not children(pair.process.pid) & workers, timeout_s=60)


def test_sigterm_drains_every_worker_and_leaves_nothing_behind(exported, tmp_path, pictures):
    flags = ("--max-queue-delay-ms", "1500", "--max-batch-size", "64")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with (
            two_workers(exported.repository, tmp_path, *flags) as server,
            concurrent.futures.ThreadPoolExecutor(8) as pool,
        ):
            assert list(temporary.glob("adaresnet-metrics-*/counter_*.db"))
            # All of them wait for a batch that doesn't fill when the signal comes.
            body = pictures["red"]
            url = f"{server.url}/v1/classify"
            pending = [
                pool.submit(httpx.post, url, content=body, timeout=30, verify=False)
                for _ in range(8)
            ]
            time.sleep(0.6)
            server.process.send_signal(signal.SIGTERM)
            assert [task.result().status_code for task in pending] == [200] * 8
            assert server.process.wait(30) == 0
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/healthz")
    assert not list(temporary.glob("adaresnet-metrics-*"))
    assert "Traceback" not in log(server)


def test_workers_end_when_their_parent_is_killed(exported: Exported, tmp_path):
    command = serve(exported, "--workers", "2", "--port", "0", "--log-format", "text")
    errors = tmp_path / "log"
    with errors.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    # Port 0: one free port for all.
    eventually(lambda: errors.read_text().count("startup complete") == 2)
    url = errors.read_text().partition("listening on ")[2].split()[0]
    assert not url.endswith(":0")
    eventually(lambda: all(ready(url) for _ in range(12)))
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


@pytest.mark.skipif(cuda_built_in(), reason="this ONNX Runtime has a CUDA provider")
def test_what_no_worker_can_do_ends_the_service_with_one_line(exported: Exported):
    command = serve(exported, "--workers", "2", "--port", "0", "--device", "cuda")
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.count("adaresnet[gpu]") == 1
    assert result.stderr.splitlines()[-1].startswith("adaresnet serve: ")
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(cuda_built_in(), reason="this ONNX Runtime has a CUDA provider")
def test_a_replacement_that_fails_leaves_its_predecessor_the_port(exported: Exported, tmp_path):
    command = [sys.executable, "-c", REPLACEMENT, str(exported.repository), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.stdout.splitlines() == ["fatal", "connected"], result.stderr


def test_a_port_that_other_workers_have_is_taken(pair: Server, exported: Exported):
    command = serve(exported, "--workers", "2", "--port", pair.url.rpartition(":")[2])
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "address already in use" in result.stderr.lower()

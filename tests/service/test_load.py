"""The load generator, against the real service and against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socketserver
import subprocess
import sys
import threading
import time

import pytest

from service.load import LoadError, Report, Target, generate, read_report
from tests.conftest import CLASSES, Exported, draw, free_port, serving


@pytest.fixture
def bodies(rng) -> list[bytes]:
    found = []
    for name in CLASSES:
        buffer = io.BytesIO()
        draw(name, rng).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_every_answer_of_the_service_is_counted(server, bodies, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(len(bodies))]
    for path, body in zip(files, bodies, strict=True):
        path.write_bytes(body)
    words = ["--port", str(port_of(server.url)), "--connections", "4", "--seconds", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "service.load", *words, *files],
        capture_output=True,
        text=True,
        check=True,
    )
    report = read_report(done.stdout)
    assert report.failures == {}
    assert report.answered == report.latencies.total
    assert 0 < report.answered - report.in_time <= 4  # the last ones come after the time
    assert report.per_s == report.in_time / 0.5
    assert 0 < report.latencies.percentile_s(0.5) <= report.latencies.percentile_s(0.999)
    assert read_report(report.to_json()) == report


def test_other_statuses_are_failures_with_an_example(server, bodies):
    port = port_of(server.url)
    target = Target("127.0.0.1", port, "/v1/classify", connections=3, seconds=0.2)
    report = asyncio.run(generate(target, [*bodies, b"no picture"]))
    assert report.answered > 0
    assert list(report.failures) == ["status 422"]
    assert "image" in report.example


def test_a_server_that_dies_ends_the_load_with_the_reason(exported: Exported, tmp_path, bodies):
    with serving(exported.repository, tmp_path) as doomed:
        target = Target("127.0.0.1", port_of(doomed.url), "/v1/classify", 4, seconds=30)
        threading.Timer(0.5, doomed.process.kill).start()
        started = time.monotonic()
        with pytest.raises(LoadError, match="is gone"):
            asyncio.run(generate(target, bodies))
        assert time.monotonic() - started < 15


def test_nobody_listens(tmp_path):
    body = tmp_path / "x"
    body.write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-m", "service.load", "--port", str(free_port()), body],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "is gone" in done.stderr


class Odd(socketserver.ThreadingTCPServer):
    """Answers every request with the same bytes, in these parts, or closes the connection."""

    daemon_threads = True

    def __init__(self, *parts: bytes, close: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _OddAnswer)
        self.parts, self.closes = parts, close


class _OddAnswer(socketserver.BaseRequestHandler):
    server: Odd

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while self.request.recv(4096) and not self.server.closes:
                for part in self.server.parts:
                    self.request.sendall(part)
                    time.sleep(0.001)


def load_on(*parts: bytes, close: bool = False) -> Report:
    with Odd(*parts, close=close) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = server.server_address[1]
        target = Target("127.0.0.1", port, "/", connections=2, seconds=0.2, drain_s=0.2)
        try:
            return asyncio.run(generate(target, [b"body"]))
        finally:
            server.shutdown()


def test_answers_may_come_in_pieces():
    report = load_on(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\nab", b"cd")
    assert report.answered > 2
    assert report.failures == {}


def test_an_answer_without_length_ends_the_load():
    with pytest.raises(LoadError, match="no length"):
        load_on(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok")


def test_connections_that_are_closed_are_failures_and_opened_again():
    report = load_on(close=True)
    assert report.answered == 0
    assert report.failures["connection lost"] > 2


def test_a_server_that_never_answers_does_not_hold_the_load_up():
    report = load_on()
    assert report.failures == {"no answer": 2}

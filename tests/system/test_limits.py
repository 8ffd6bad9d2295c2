"""Clients that take too much or too long, and good ones beside them."""

from __future__ import annotations

import contextlib
import io
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Exported, Server, draw, free_port, serving
from tests.service.api.test_connection import CHUNKED, LIVE, POST, Talk, sized
from tests.system.prometheus import eventually, scrape, total

SECOND = ("--head-timeout-s", "1", "--body-pause-timeout-s", "1", "--send-timeout-s", "2")


@pytest.fixture(scope="module")
def strict(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits a second where another would wait ten."""
    flags = (*SECOND, "--keep-alive-s", "2", "--body-timeout-s", "3", "--min-body-rate", "100")
    with serving(exported.repository, tmp_path_factory.mktemp("strict"), *flags) as server:
        yield server


@pytest.fixture
def picture(rng) -> bytes:
    buffer = io.BytesIO()
    draw("green", rng).save(buffer, "PNG")
    return buffer.getvalue()


def refusals(url: str, reason: str) -> float:
    return total(scrape(url), "adaresnet_refusals_total", reason=reason)


def trickle(talk: Talk, pieces: Iterator[bytes], pause_s: float) -> None:
    """Send a piece now and then until the server has had enough."""
    talk.socket.settimeout(pause_s)
    for piece in pieces:
        with contextlib.suppress(ConnectionError):
            talk.socket.sendall(piece)
        try:
            if talk.socket.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
    talk.socket.settimeout(60)


def forever(piece: bytes) -> Iterator[bytes]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        yield piece
    pytest.fail("the server waits for ever")


@pytest.mark.parametrize(
    "begin", [b"G", b"GET /hea", LIVE[:-2], LIVE[:-2] + b"A: "], ids=["method", "path", "head", "A"]
)
@pytest.mark.parametrize("first", [b"", LIVE], ids=["first", "second"])
def test_a_head_that_comes_too_slowly_is_408(strict, begin, first):
    with Talk(strict) as talk:
        if first:
            talk.say(first)
            assert talk.hear().status == 200
        talk.say(begin)
        trickle(talk, forever(b"T" if begin == b"G" else b"a"), 0.3)
        # A method that can't be any is refused at once.
        answer = talk.hear()
        assert answer.status == (408 if begin != b"G" else 400)
        assert answer.headers["connection"] == "close"
        assert talk.is_closed()


def test_a_head_that_stops_is_408(strict):
    before = refusals(strict.url, "request_too_slow")
    with Talk(strict) as talk:
        talk.say(b"GET /healthz HTT")
        assert talk.hear().status == 408
        assert talk.is_closed()
    assert refusals(strict.url, "request_too_slow") == before + 1


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("large", [False, True])
def test_a_body_that_stops_is_408(strict, framing, large):
    length = 5_000_000 if large else 500
    head = POST + (CHUNKED if framing == "chunked" else b"Content-Length: %d\r\n" % length)
    with Talk(strict) as talk:
        talk.say(head + b"\r\n" + (b"100\r\n" if framing == "chunked" else b"") + b"x" * 200)
        answer = talk.hear()
        assert answer.status == 408
        assert answer.headers["content-type"] == "application/problem+json"
        assert b'"code":"request_too_slow"' in answer.body
        assert b"body_pause_timeout_s" in answer.body
        assert answer.headers["connection"] == "close"
        assert talk.is_closed()


@pytest.mark.parametrize(
    ("piece", "reason"), [(b"x", b"min_body_rate"), (b"x" * 500, b"body_timeout_s")]
)
def test_a_body_that_trickles_is_408(strict, piece, reason):
    with Talk(strict) as talk:
        talk.say(POST + b"Content-Length: 1000000\r\n\r\n")
        trickle(talk, forever(piece), 0.3)
        answer = talk.hear()
        assert answer.status == 408
        assert reason in answer.body


def test_the_rest_of_a_refused_body_is_not_waited_for(strict):
    with Talk(strict) as talk:
        talk.say(POST.replace(b"classify", b"nothing") + b"Content-Length: 1000\r\n\r\nx")
        assert talk.hear().status == 404
        trickle(talk, forever(b"x"), 0.3)
        assert talk.is_closed()


def test_a_body_that_is_slow_but_steady_is_read(strict, picture):
    with Talk(strict) as talk:
        request = sized(picture)
        for start in range(0, len(request), 400):
            talk.say(request[start : start + 400])
            time.sleep(0.4)
        assert talk.hear().status == 200


def test_reading_that_the_service_itself_delays_is_not_held_against_a_client(strict):
    """A request that takes longer than its client is given to send it, because of us."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((60_000, 16, 16, 3), np.uint8))
    with httpx.Client(base_url=strict.url, timeout=120) as client:
        answer = client.post(
            "/v1/classify?top_k=1",
            content=buffer.getvalue(),
            headers={"Content-Type": "application/x-npy", "X-Request-Timeout": "120"},
        )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("said", [b"", b"\r\n\r\n", LIVE], ids=["nothing", "empty lines", "kept"])
def test_an_idle_connection_is_closed(strict, said):
    with Talk(strict) as talk:
        talk.say(said)
        if said == LIVE:
            assert talk.hear().status == 200
        assert talk.is_closed()


def test_a_client_that_does_not_read_its_answers_is_cut_off(strict):
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX-Request-ID: unread\r\n\r\n"
    one = len(httpx.get(f"{strict.url}/openapi.json").content)
    count = 40_000_000 // one  # much more than both sides' buffers hold
    with Talk(strict) as talk:
        talk.say(request * count)
        eventually(lambda: " 499 " in strict.log.read_text(), timeout_s=60)
        received = 0
        with contextlib.suppress(ConnectionError):
            while block := talk.socket.recv(1 << 16):
                received += len(block)
    assert received < one * count


def test_limits_on_the_head_are_settings(exported: Exported, tmp_path):
    flags = ("--max-headers", "12", "--max-head-bytes", "2000")
    with serving(exported.repository, tmp_path, *flags) as server:
        for more, status in ((10, 200), (13, 431)):
            with Talk(server) as talk:
                talk.say(LIVE[:-2] + b"A: b\r\n" * more + b"\r\n")
                assert talk.hear().status == status
        with Talk(server) as talk:
            talk.say(LIVE[:-2] + b"A: " + b"b" * 2000 + b"\r\n\r\n")
            answer = talk.hear()
            assert answer.status == 431
            assert b"2000 bytes" in answer.body


def test_a_flood_of_silent_connections_does_not_keep_good_clients_out(
    exported: Exported, tmp_path, picture
):
    with (
        serving(exported.repository, tmp_path, "--max-connections", "50") as server,
        contextlib.ExitStack() as stack,
        server.client() as kept,
    ):
        assert kept.get("/healthz").status_code == 200
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    host, _, port = server.url.removeprefix("http://").partition(":")
                    stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
                time.sleep(0.001)

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for _ in range(100):
                # One client on a connection that it keeps, others on new ones.
                assert kept.post("/v1/classify", content=picture).status_code == 200
                answer = httpx.post(f"{server.url}/v1/classify", content=picture)
                assert answer.status_code == 200
        finally:
            stop.set()
            flooding.join()
        assert "max_connections" in server.log.read_text()


def test_where_nobody_is_idle_new_connections_are_503(exported: Exported, tmp_path):
    admin = free_port()
    flags = ("--max-connections", "10", "--admin-port", str(admin))
    with serving(exported.repository, tmp_path, *flags) as server, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(Talk(server)) for _ in range(10)]
        for talk in busy:
            talk.say(POST + b"Content-Length: 10\r\n\r\nx")  # the rest is still to come
        eventually(lambda: refused(server))
        assert refusals(f"http://127.0.0.1:{admin}", "too_many_connections") == 1
        for path in ("/readyz", "/metrics"):
            assert httpx.get(f"http://127.0.0.1:{admin}{path}").status_code == 200
        for talk in busy[1:]:
            talk.say(b"x" * 9)
            assert talk.hear().status == 422
        assert httpx.get(f"{server.url}/healthz").status_code == 200


def refused(server: Server) -> bool:
    with Talk(server) as talk:
        talk.say(LIVE)
        answer = talk.hear()
        if answer.status == 200:
            return False
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["connection"] == "close"
        assert talk.is_closed()
        return True


def test_requests_in_work_are_counted(exported: Exported, tmp_path, picture):
    with (
        serving(exported.repository, tmp_path, "--max-requests", "2") as server,
        Talk(server) as one,
        Talk(server) as another,
        server.client() as client,
    ):
        for talk in (one, another):
            talk.say(POST + b"Content-Length: 10\r\n\r\nx")

        def full() -> bool:
            answer = client.post("/v1/classify", content=picture)
            if answer.status_code == 200:
                return False
            assert answer.status_code == 503
            assert answer.json()["code"] == "too_many_requests"
            assert int(answer.headers["retry-after"]) > 0
            return True

        eventually(full)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200
        one.say(b"x" * 9)
        assert one.hear().status == 422
        assert client.post("/v1/classify", content=picture).status_code == 200


def test_a_picture_that_takes_too_long_to_decode_is_422(exported: Exported, tmp_path, picture):
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    flags = ("--decode-timeout-s", "0.01")
    with serving(exported.repository, tmp_path, *flags) as server, server.client() as client:
        answer = client.post("/v1/classify", content=buffer.getvalue())
        assert (answer.status_code, answer.json()["code"]) == (422, "image_too_slow")
        assert "0.01 s" in answer.json()["detail"]
        assert client.post("/v1/classify", content=picture).status_code == 200


def test_what_ends_its_side_early_leaves_nothing_behind(strict):
    for begun in (b"", b"GET", LIVE[:-2], POST + b"Content-Length: 9\r\n\r\nx"):
        with Talk(strict) as talk:
            talk.say(begun)
            talk.socket.shutdown(socket.SHUT_WR)
            assert talk.is_closed()


def test_all_of_this_leaves_no_trace_in_the_log(strict):
    assert httpx.get(f"{strict.url}/healthz").status_code == 200
    log = strict.log.read_text()
    assert "Traceback" not in log
    assert " ERROR " not in log


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads /proc")
def test_more_files_may_be_open_than_the_shell_allows(exported: Exported, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1000:
        pytest.skip("this machine allows too few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with serving(exported.repository, tmp_path, "--max-connections", "700") as server:
            limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) >= 956


def test_the_memory_of_an_answer_is_bounded(exported: Exported, tmp_path):
    # Some 400 bytes an answered image are more than a MiB besides the first, and no body is.
    pixels = io.BytesIO()
    np.save(pixels, np.zeros((20_000, 1, 1, 3), np.uint8))
    with serving(exported.repository, tmp_path, "--max-held-bytes", str(2**20)) as server:
        url, headers = f"{server.url}/v1/classify?top_k=3", {"content-type": "application/x-npy"}
        refused = httpx.post(url, content=pixels.getvalue(), headers=headers, timeout=60)
        assert refused.status_code == 413
        assert "max_held_bytes" in refused.json()["detail"]
        lines = {**headers, "accept": "application/x-ndjson"}
        answered = httpx.post(url, content=pixels.getvalue(), headers=lines, timeout=60)
        assert answered.status_code == 200
        assert answered.text.count("\n") == 20_000

"""What a connection may carry: heads, framing, upgrades, pipelines, and clients that leave."""

from __future__ import annotations

import io
import itertools
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import IO

import numpy as np
import pytest
from PIL import Image

from service.settings import Settings
from tests.conftest import Server, draw
from tests.system.prometheus import scrape, total

MAX_HEAD_BYTES, MAX_HEADERS = Settings().max_head_bytes, Settings().max_headers
HOST = b"Host: x\r\n"
LIVE = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /v1/classify?top_k=1 HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
# As Java's HttpClient offers HTTP/2 with its first request.
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
ANSWER_S = 60
ids = itertools.count()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Talk:
    """A connection, byte by byte."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=ANSWER_S)
        self.file: IO[bytes] = self.socket.makefile("rb")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def say(self, *segments: bytes) -> None:
        """Send in as many segments as there are."""
        for number, segment in enumerate(segments):
            if number:
                time.sleep(0.05)
            self.socket.sendall(segment)

    def hear(self, *, bodiless: bool = False) -> Answer:
        """The next answer, an interim one too."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline().rstrip(b"\r\n")) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        length = 0 if bodiless or status < 200 else int(headers["content-length"])
        return Answer(status, headers, self.file.read(length))

    def hear_final(self) -> Answer:
        while (answer := self.hear()).status < 200:
            assert answer.status == 100
        return answer

    def is_closed(self) -> bool:
        """The server has ended its side, and sent nothing else."""
        return self.file.read() == b""


@pytest.fixture
def talk(server: Server):
    with Talk(server) as connected:
        yield connected


@pytest.fixture
def picture(rng) -> bytes:
    buffer = io.BytesIO()
    draw("green", rng).save(buffer, "PNG")
    return buffer.getvalue()


def sized(body: bytes, more: bytes = b"") -> bytes:
    return POST + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunks(body: bytes, size: int = 50) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def slow(images: int = 4000, more: bytes = b"") -> bytes:
    """A request that takes a good part of a second, or more."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((images, 16, 16, 3), np.uint8))
    return sized(buffer.getvalue(), b"Content-Type: application/x-npy\r\n" + more)


def long(more: bytes) -> bytes:
    """A request that is short enough to be sent whole at once, and takes seconds to answer.

    The end of a connection comes behind all that was sent on it.
    """
    buffer = io.BytesIO()
    Image.new("RGB", (2500, 2500)).save(buffer, "WEBP", lossless=True)
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    form = (part + buffer.getvalue() + b"\r\n") * 150 + b"--b--\r\n"
    return sized(form, b"Content-Type: multipart/form-data; boundary=b\r\n" + more)


def is_green(answer: Answer) -> bool:
    return answer.status == 200 and b'"label":"green"' in answer.body


def still_answers(server: Server) -> bool:
    with Talk(server) as another:
        another.say(LIVE)
        return another.hear().status == 200


@pytest.mark.parametrize(
    "head",
    [
        LIVE[:-2] + b"A: b\r\n" * MAX_HEADERS + b"\r\n",
        LIVE[:-2] + b"A: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n",
        LIVE[:-2] + b"".join(b"A%d: %b\r\n" % (n, b"b" * 1000) for n in range(70)) + b"\r\n",
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
    ids=["many headers", "one long header", "long together", "long address"],
)
def test_a_head_that_is_too_large_is_431(server, talk, head):
    talk.say(head)
    answer = talk.hear()
    assert answer.status == 431
    assert str(MAX_HEADERS).encode() in answer.body
    assert talk.is_closed()
    assert still_answers(server)


@pytest.mark.parametrize("begin", [LIVE[:-2] + b"A: ", b"GET /", LIVE[:-2]])
def test_a_head_that_never_ends_is_431(talk, begin):
    talk.say(begin)
    block = b"b" * 1000 if begin != LIVE[:-2] else b"A: b\r\n" * 20
    told = gone = False
    for _ in range(10_000):
        try:
            talk.say(block)
            if ready_to_read(talk.socket):
                told = talk.hear().status == 431
                break
        except OSError:  # it was told in between, and what was on its way then ends the connection
            gone = True
            break
    assert told or gone


def ready_to_read(connected: socket.socket) -> bool:
    connected.setblocking(False)
    try:
        return bool(connected.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        connected.settimeout(ANSWER_S)


def test_as_many_headers_as_are_allowed(talk):
    talk.say(LIVE[:-2] + b"A: b\r\n" * (MAX_HEADERS - 1) + b"\r\n")
    assert talk.hear().status == 200


HOSTILE = {
    "a space in a name": LIVE[:-2] + b"A B: c\r\n\r\n",
    "a space behind a name": LIVE[:-2] + b"A : c\r\n\r\n",
    "no name": LIVE[:-2] + b": c\r\n\r\n",
    "no colon": LIVE[:-2] + b"A\r\n\r\n",
    "a control character in a name": LIVE[:-2] + b"A\x01: c\r\n\r\n",
    "NUL in a value": LIVE[:-2] + b"A: b\x00c\r\n\r\n",
    "bare CR": LIVE[:-2] + b"A: b\rc\r\n\r\n",
    "bare LF": LIVE.replace(b"\r\n", b"\n"),
    "a folded line": LIVE[:-2] + b"A: b\r\n c\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": LIVE[:-2] + HOST + b"\r\n",
    "length and chunks": POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks and length": POST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\n",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a length in base 16": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "an empty length": POST + b"Content-Length: \r\n\r\n",
    "a length of many digits": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "chunks not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "something like chunks": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "no size of a chunk": POST + CHUNKED + b"\r\nx\r\nhello\r\n0\r\n\r\n",
    "a negative chunk": POST + CHUNKED + b"\r\n-5\r\nhello\r\n0\r\n\r\n",
    "a huge chunk": POST + CHUNKED + b"\r\n" + b"f" * 20 + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer": POST + CHUNKED + b"\r\n3\r\nhello\r\n0\r\n\r\n",
    "LF in chunks": POST + CHUNKED + b"\r\n5\nhello\n0\n\n",
    "an unknown method": LIVE.replace(b"GET", b"BREW"),
    "another version": LIVE.replace(b"1.1", b"3.0"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    "NUL in the address": LIVE.replace(b"healthz", b"a\x00b"),
    "no address": LIVE.replace(b"/healthz", b""),
    "an address without a path": LIVE.replace(b"/healthz", b"http://"),
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_http_is_400_and_ends_the_connection(server, talk, request_):
    talk.say(request_)
    assert talk.hear().status == 400
    assert talk.is_closed()
    assert still_answers(server)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (HOSTILE["no colon"], "bad_request"),
        (HOSTILE["two hosts"], "bad_request"),
        (LIVE[:-2] + b"A: b\r\n" * MAX_HEADERS + b"\r\n", "head_too_large"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "not_implemented"),
    ],
    ids=["no colon", "two hosts", "many headers", "gzip"],
)
def test_what_is_refused_before_it_is_a_request_is_counted(server, talk, request_, reason):
    def count() -> float:
        return total(scrape(server.url), "adaresnet_refusals_total", reason=reason)

    before = count()
    talk.say(request_)
    talk.hear()
    assert count() == before + 1


@pytest.mark.parametrize("length", [2**40, 2**63])
def test_a_huge_length_is_refused_before_the_body_comes(talk, length):
    talk.say(POST + b"Content-Length: %d\r\n\r\n" % length)
    assert talk.hear().status == 413


@pytest.mark.parametrize("first", [LIVE, slow()], ids=["quick", "slow"])
@pytest.mark.parametrize("second", [LIVE[:-2] + b"A B: c\r\n\r\n", b"\x00\x01\x02"])
def test_what_came_before_a_bad_request_is_answered_first(talk, first, second):
    talk.say(first + second)
    assert [talk.hear().status, talk.hear().status] == [200, 400]
    assert talk.is_closed()


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
@pytest.mark.parametrize("way", ["whole", "segments", "chunked", "chunked segments"])
@pytest.mark.parametrize("together", [False, True], ids=["then", "pipelined"])
def test_an_offer_to_upgrade_is_answered_as_if_there_were_none(talk, picture, offer, way, together):
    request = sized(picture, offer)
    if "chunked" in way:
        request = POST + offer + CHUNKED + b"\r\n" + chunks(picture) + b"0\r\n\r\n"
    segments = [request]
    if "segments" in way:
        head = request.index(b"\r\n\r\n") + 4
        segments = [request[:20], request[20:head], request[head : head + 9], request[head + 9 :]]
    if together:
        segments[-1] += LIVE
    talk.say(*segments)
    answer = talk.hear()
    assert is_green(answer)
    assert "upgrade" not in answer.headers
    if not together:
        talk.say(LIVE)
    assert talk.hear().status == 200
    talk.say(sized(picture, offer))
    assert is_green(talk.hear())


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
def test_an_offer_to_upgrade_without_a_body(talk, offer):
    request = LIVE[:-2] + offer + b"\r\n"
    talk.say(request * 2)
    assert [talk.hear().status, talk.hear().status] == [200, 200]
    talk.say(request.replace(b"Connection: Upgrade", b"Connection: close, Upgrade"))
    assert talk.hear().headers["connection"] == "close"
    assert talk.is_closed()


@pytest.mark.parametrize(
    "codings",
    [
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: GZIP ,Chunked\r\n",
    ],
)
def test_a_coding_besides_chunked_is_501(server, talk, picture, codings):
    talk.say(POST + codings + b"\r\n" + chunks(picture) + b"0\r\n\r\n")
    assert talk.hear().status == 501
    assert talk.is_closed()
    assert still_answers(server)


def test_expect_100_continue(talk, picture):
    request = sized(picture, b"Expect: 100-continue\r\n")
    head, body = request[: -len(picture)], request[-len(picture) :]
    talk.say(head)
    assert talk.hear().status == 100
    talk.say(body)
    assert is_green(talk.hear())
    # A request that is refused by its head is not told to go on.
    talk.say(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % 2**40)
    assert talk.hear().status == 413


def test_a_pipeline_is_answered_in_its_order(talk, picture):
    talk.say(slow() + sized(picture) + LIVE)
    first, second, third = talk.hear(), talk.hear(), talk.hear()
    assert first.body.count(b'"label"') == 4000
    assert is_green(second)
    assert third.body == b'{"status":"ok"}'


def test_a_long_pipeline_is_no_large_head(talk):
    request = LIVE[:-2] + b"A: " + b"b" * 3000 + b"\r\n\r\n"
    talk.say(request * 300)
    assert [talk.hear().status for _ in range(300)] == [200] * 300


def test_http_1_0(talk):
    talk.say(b"GET /healthz HTTP/1.0\r\n\r\n")
    answer = talk.hear()
    assert answer.status == 200
    assert answer.headers["connection"] == "close"
    assert "transfer-encoding" not in answer.headers
    assert talk.is_closed()


def test_close_is_obeyed(talk, picture):
    talk.say(sized(picture, b"Connection: close\r\n") + LIVE)
    answer = talk.hear()
    assert is_green(answer)
    assert answer.headers["connection"] == "close"
    assert talk.is_closed()


@pytest.mark.parametrize(
    "end", [b"0\r\n\r\n", b"0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n", b"000;a=b\r\n\r\n"]
)
def test_chunks_with_trailers_and_extensions(talk, picture, end):
    body = chunks(picture).replace(b"32\r\n", b'32;name="value"\r\n', 1)
    talk.say(POST + CHUNKED + b"\r\n" + body, end + LIVE)
    assert is_green(talk.hear())
    assert talk.hear().body == b'{"status":"ok"}'


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/nope", 404)])
def test_head_has_no_body(talk, path, status):
    request = f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    talk.say(request + LIVE)
    assert talk.hear(bodiless=True).status == status
    assert talk.hear().body == b'{"status":"ok"}'


@pytest.mark.parametrize("kind", ["sized", "chunked", "pipelined"])
def test_who_ends_only_its_own_side_is_answered(talk, picture, kind):
    request, answers = slow(), 1
    if kind == "chunked":
        body = request.partition(b"\r\n\r\n")[2]
        head = POST + b"Content-Type: application/x-npy\r\n" + CHUNKED + b"\r\n"
        request = head + chunks(body, 100_000) + b"0\r\n\r\n"
    elif kind == "pipelined":
        request, answers = request + sized(picture), 2
    talk.say(request)
    talk.socket.shutdown(socket.SHUT_WR)
    found = [talk.hear_final() for _ in range(answers)]
    assert found[0].body.count(b'"label"') == 4000
    if kind == "pipelined":
        assert is_green(found[1])
    assert found[-1].headers["connection"] == "close"
    assert talk.is_closed()


def test_who_ends_its_side_in_the_middle_is_not_waited_for(talk, picture):
    talk.say(sized(picture)[:-1])
    talk.socket.shutdown(socket.SHUT_WR)
    assert talk.is_closed()


@pytest.mark.parametrize("where", ["in the body", "while waiting", "in a pipeline"])
@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
def test_a_client_that_is_gone_ends_the_work(server, where, reset):
    request_id = f"gone-{next(ids)}"
    request = long(f"X-Request-ID: {request_id}\r\n".encode())
    if where == "in the body":
        request = request[: len(request) // 2]
    elif where == "in a pipeline":
        request += LIVE * 3
    with Talk(server) as leaving:
        leaving.say(request)
        time.sleep(0.1)
        if reset:
            leaving.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert status_in_log(server, request_id) == 499
    assert still_answers(server)
    assert "Traceback" not in server.log.read_text()


def status_in_log(server: Server, request_id: str) -> int:
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        found = re.search(rf" (\d+) [\d.]+ ms {request_id}\n", server.log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.02)
    pytest.fail("the request never ends")


def test_a_long_pipeline_of_offers_to_upgrade_is_answered(talk):
    talk.say((LIVE[:-2] + WEBSOCKET + b"\r\n") * 600)
    assert [talk.hear().status for _ in range(600)] == [200] * 600


def test_an_address_may_be_whole_and_without_a_path(talk):
    talk.say(b"GET http://x HTTP/1.1\r\n" + HOST + b"\r\n")
    assert talk.hear().status == 200


def test_connect_is_400(talk):
    talk.say(b"CONNECT /v1/models HTTP/1.1\r\n" + HOST + b"\r\n")
    assert talk.hear().status == 400

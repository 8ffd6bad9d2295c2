"""Answers of one line an image, from a real server to clients that read early, late and never."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import CLASSES, Server, draw, serving
from tests.system.prometheus import scrape, total

LINES = "application/x-ndjson"
PATH = "/v1/classify?top_k=1"


def png(name: str, rng) -> bytes:
    buffer = io.BytesIO()
    draw(name, rng).save(buffer, "PNG")
    return buffer.getvalue()


def line(content: bytes) -> bytes:
    return json.dumps(base64.b64encode(content).decode()).encode() + b"\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.socket() as connection:
        connection.settimeout(60)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it holds little unread
        connection.connect((address.hostname, address.port))
        yield connection


def begin(connection: socket.socket, *, top_k: int = 1, more: str = "") -> None:
    connection.sendall(
        f"POST /v1/classify?top_k={top_k} HTTP/1.1\r\nHost: x\r\nAccept: {LINES}\r\n"
        f"Content-Type: {LINES}\r\nTransfer-Encoding: chunked\r\n{more}\r\n".encode()
    )


def response_of(connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def results(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(each) for each in text.splitlines()]


def test_a_result_comes_before_the_next_image_is_sent(server, rng):
    with connected(server) as connection:
        begin(connection)
        response = None
        for index, name in enumerate(CLASSES * 3):
            connection.sendall(chunk(line(png(name, rng))))
            response = response or response_of(connection)
            found = json.loads(response.readline())
            assert found["index"] == index
            assert found["predictions"][0]["label"] == name
        connection.sendall(chunk(b""))
        assert response is not None
        assert response.status == 200
        assert response.headers["content-type"] == LINES
        assert response.headers["x-model"] == "colors/1"
        assert response.read() == b""
        # The connection is good for more.
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert response_of(connection).status == 200


@pytest.mark.parametrize("form", ["multipart", "json", "one"])
def test_every_form_of_request_can_be_answered_in_lines(client, rng, form):
    content = png("red", rng)
    forms: dict[str, dict[str, Any]] = {
        "multipart": {"files": [("f", ("a.png", content)), ("f", ("b.png", b"junk"))]},
        "json": {"json": {"images": [base64.b64encode(content).decode(), "?"]}},
        "one": {"content": content},
    }
    response = client.post(PATH, headers={"accept": LINES}, **forms[form])
    assert response.status_code == 200
    first, *rest = results(response.content)
    assert (first["index"], first["predictions"][0]["label"]) == (0, "red")
    if rest:
        assert rest[0]["index"] == rest[0]["error"]["index"] == 1
        assert rest[0]["error"]["code"] == "image_undecodable"
    assert len(rest) == (form != "one")


def test_lines_in_and_one_document_out(client, rng):
    body = b"".join(line(png(name, rng)) for name in CLASSES)
    response = client.post(PATH, content=body, headers={"content-type": LINES})
    assert [each["predictions"][0]["label"] for each in response.json()["results"]] == [*CLASSES]


def test_what_is_wrong_from_the_start_has_a_status(client):
    headers = {"accept": LINES, "content-type": LINES}
    assert client.post(PATH, content=b"\n", headers=headers).status_code == 400
    assert client.post(PATH + "&model=no", content=b'"AAAA"', headers=headers).status_code == 404
    response = client.post(PATH, content=b"AAAA", headers={"accept": LINES, "content-type": "a/b"})
    assert response.status_code == 415
    assert response.headers["content-type"] == "application/problem+json"


def test_what_goes_wrong_later_is_the_last_line(server, rng):
    good = png("blue", rng)
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + good + b"\r\n"
    request = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAccept: {LINES}\r\nX-Request-ID: mine\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with connected(server) as connection:
        connection.sendall(request.encode() + chunk(form * 2 + b"--b\r\nnonsense"))
        response = response_of(connection)
        assert response.status == 200
        first = json.loads(response.readline())
        connection.sendall(chunk(b""))
        *_, last = [first, *results(response.read())]
    assert first["predictions"][0]["label"] == "blue"
    assert "index" not in last
    assert last["error"]["code"] == "malformed_request"
    assert last["error"]["request_id"] == "mine"


def test_a_client_may_read_when_it_has_sent_everything(server, rng):
    """Most clients do, and their answer may be far more than the network holds."""
    count, lines = 10_000, line(png("green", rng))
    with connected(server) as connection:
        begin(connection, top_k=3)
        for _ in range(count // 100):
            connection.sendall(chunk(lines * 100))
        connection.sendall(chunk(b""))
        found = results(response_of(connection).read())
    assert [each["index"] for each in found] == list(range(count))
    assert {each["predictions"][0]["label"] for each in found} == {"green"}


def test_the_deadline_is_for_each_bit_unless_the_client_says_otherwise(exported, tmp_path, rng):
    with serving(exported.repository, tmp_path, "--request-timeout-s", "1") as server:
        with connected(server) as connection:
            begin(connection)
            for _ in range(4):
                connection.sendall(chunk(line(png("red", rng))))
                time.sleep(0.5)
            connection.sendall(chunk(b""))
            assert len(results(response_of(connection).read())) == 4
        with connected(server) as connection:
            begin(connection, more="X-Request-Timeout: 700ms\r\n")
            connection.sendall(chunk(line(png("red", rng))))
            found = results(response_of(connection).read())
    assert len(found) == 2
    assert found[1]["error"]["code"] == "deadline_exceeded"


def test_who_hangs_up_leaves_nothing_behind(exported, tmp_path, rng):
    with serving(exported.repository, tmp_path) as server, server.client() as client:
        for _ in range(5):
            with connected(server) as connection:
                begin(connection)
                connection.sendall(chunk(line(png("red", rng)) * 300))
                response_of(connection).readline()
        until = time.monotonic() + 30
        while total(scrape(server.url), "adaresnet_images_in_work"):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert client.post(PATH, content=png("red", rng)).status_code == 200

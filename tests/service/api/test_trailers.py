"""What comes behind a body in chunks is bounded, and is no part of the head."""

from __future__ import annotations

import socket

import pytest

from service.settings import Settings
from tests.conftest import Server

POST = (
    b"POST /v1/classify?top_k=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
    b"Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LINE = b'7\r\n"junk"\n\r\n'
TOO_MUCH = b"a" * (2 * Settings().max_head_bytes)


def exchange(server: Server, *segments: bytes) -> bytes:
    """Send bytes, each segment behind the first part of an answer to the one before."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    heard = b""
    with socket.create_connection((host, int(port)), timeout=60) as connected:
        for number, segment in enumerate(segments):
            if number:
                heard += connected.recv(65536)
            try:
                connected.sendall(segment)
            except OSError:
                break  # it has heard enough
        try:
            while some := connected.recv(65536):
                heard += some
        except OSError:
            pass
    return heard


@pytest.mark.parametrize(
    "endless", [b"0\r\nX: ", b"0\r\n" + b"X: y\r\n" * 20_000, b"1;x="], ids=["one", "many", "chunk"]
)
def test_one_that_never_ends_is_431(server, endless):
    begun = POST.replace(b"Accept: application/x-ndjson\r\n", b"") + LINE
    heard = exchange(server, begun + endless + TOO_MUCH + TOO_MUCH)
    assert heard.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("endless", [b"0\r\n" + b"X: y\r\n" * 20_000, b"no chunk"])
def test_within_an_answer_no_other_one_begins(server, endless):
    heard = exchange(server, POST + LINE * 100, endless)
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert heard.count(b"HTTP/1.1 ") == 1


def test_it_says_nothing_about_the_request(server):
    trailer = b"0\r\nX-Request-ID: behind\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    heard = exchange(server, first + trailer + last)
    assert b"behind" not in heard
    assert heard.count(b"HTTP/1.1 200 OK") == 2

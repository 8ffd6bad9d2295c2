from __future__ import annotations

import itertools
import socket
import threading

import httpx
import pytest

from service.http_answer import AnswerReader
from service.loadtest.pictures import draw_pictures
from service.loadtest.target import (
    Target,
    TargetError,
    check_pictures,
    find_subject,
    parse_target,
)
from tests.conftest import Server, free_port
from tests.service.loadtest.made_up import OK


def test_addresses():
    target = parse_target("localhost:8000/", None, None)
    assert (target.url, target.host, target.port) == ("http://localhost:8000", "localhost", 8000)
    assert target.path == "/v1/classify"
    assert "Authorization" not in target.headers
    assert parse_target("http://[::1]", None, None).port == 80
    behind = parse_target("https://example.com/models/", "my model", "secret")
    assert (behind.url, behind.port) == ("https://example.com/models", 443)
    assert behind.path == "/v1/classify?model=my%20model"
    assert behind.headers["Authorization"] == "Bearer secret"
    assert behind.address.tls is not None


@pytest.mark.parametrize(
    "url",
    ["", "http://", "ftp://x", "http://x:99999", "http://x:y", "http://x?y", "http://u:p@x",
     "http://[", "http://ü"],
)  # fmt: skip
def test_what_is_no_address_is_named(url):
    with pytest.raises(ValueError, match="url: "):
        parse_target(url, None, None)


def test_a_key_that_no_header_carries_is_refused_and_not_printed():
    with pytest.raises(ValueError, match="api-key") as refused:
        parse_target("http://x", None, "secret\r\nX: y")
    assert "secret" not in str(refused.value)


def send(target: Target, data: bytes) -> tuple[int, bytes]:
    reader = AnswerReader()
    with socket.create_connection((target.host, target.port), timeout=30) as connection:
        connection.sendall(data)
        while not reader.feed(connection.recv(65536)):
            pass
    return reader.status, reader.body()


@pytest.mark.parametrize("images", [1, 5])
def test_requests_are_what_the_service_reads(server: Server, images):
    target = parse_target(server.url, "colors", None)
    pictures = list(draw_pictures(16, 16).values())
    requests = list(itertools.islice(target.requests(pictures, images), 10))
    assert len(set(requests)) == 10
    for data in requests[:3]:
        status, body = send(target, data)
        assert status == 200, body
        assert body.count(b'"predictions"') == images


def test_the_model_and_its_size_are_asked_for(server: Server):
    for model in (None, "colors"):
        subject = find_subject(parse_target(server.url, model, None), model, 30)
        assert (subject.name, subject.version) == ("colors", 1)
        assert (subject.height, subject.width) == (16, 16)
    with pytest.raises(TargetError, match="'dogs'; there are colors"):
        find_subject(parse_target(server.url, "dogs", None), "dogs", 30)


def test_a_picture_that_is_refused_is_named(server: Server):
    target = parse_target(server.url, None, None)
    pictures = draw_pictures(16, 16)
    check_pictures(target, pictures, 30)
    with pytest.raises(TargetError, match=r"notes\.txt is refused"):
        check_pictures(target, {**pictures, "notes.txt": b"no picture"}, 30)


def test_servers_of_another_kind_and_none():
    with pytest.raises(TargetError, match="can't be asked"):
        find_subject(parse_target(f"127.0.0.1:{free_port()}", None, None), None, 5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TargetError, match="does not answer GET /v1/models in time"):
            find_subject(parse_target(f"127.0.0.1:{port}", None, None), None, 0.3)
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            connection.recv(4096)
            connection.sendall(OK)
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(TargetError, match="not a server of this kind"):
            find_subject(parse_target(f"127.0.0.1:{other.getsockname()[1]}", None, None), None, 5)


def test_the_key_goes_with_every_question():
    seen: list[str | None] = []
    key = "k-123"
    target = parse_target("http://x", None, key)
    request = next(target.requests([b"picture"], 1))
    head = request.partition(b"\r\n\r\n")[0].decode()
    seen.append(dict(line.split(": ", 1) for line in head.split("\r\n")[1:]).get("Authorization"))
    with httpx.Client(headers=dict(target.headers)) as client:
        seen.append(client.headers.get("Authorization"))
    assert seen == ["Bearer k-123"] * 2

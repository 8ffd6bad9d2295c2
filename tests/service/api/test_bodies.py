"""Which way a body is read, and what is held of it."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from service.api.bodies import read_images
from service.engine.errors import (
    EmptyRequestError,
    ImageError,
    InputError,
    MalformedRequestError,
    RequestTooLargeError,
    UnsupportedMediaError,
)
from service.engine.images import ImageStream
from tests.service.api.handmade import (
    LIMITS,
    Body,
    chunks_of,
    cuts,
    outcome,
    peak_bytes,
    read,
    read_whole,
    request_of,
    split,
)
from tests.service.api.test_npy import header

RAW_KINDS = (None, "image/png", "IMAGE/PNG; q=1", "application/octet-stream", " image/x ",
             "application/x-www-form-urlencoded")  # fmt: skip


def as_json(*images: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize("stated", [True, False])
def test_anything_else_is_one_image(kind, stated):
    for body in (b"x", b"\x93NUM", b"picture" * 300_000):
        assert read(split(body, [1, 2, 70_000]), kind, len(body) if stated else None) == [body]


@pytest.mark.parametrize("kind", [*RAW_KINDS, "application/json", "application/x-npy",
                                  "multipart/form-data; boundary=x"])  # fmt: skip
@pytest.mark.parametrize("length", [0, None])
def test_an_empty_body_is_told_so(kind, length):
    for blocks in ([], [b""]):
        with pytest.raises(EmptyRequestError):
            read(blocks, kind, length)


def test_the_type_and_the_encoding_are_checked_before_the_body_is_read():
    body = Body([b"x"])
    for request in (
        request_of(body, "text/plain", 1),
        request_of(body, "image/png", 1, content_encoding="gzip"),
    ):
        with pytest.raises(UnsupportedMediaError):
            asyncio.run(read_images(request, LIMITS))
    assert not body.reads
    assert read([b"x"], "image/png", 1, content_encoding=" Identity ") == [b"x"]


@pytest.mark.parametrize("first", ["identity", "", "identity, "])
def test_an_encoding_in_a_second_header_is_one_too(first):
    request = request_of(Body([b"x"]), "image/png", 1, content_encoding=first)
    request.scope["headers"].append((b"content-encoding", b"GZIP"))
    with pytest.raises(UnsupportedMediaError, match="'gzip'"):
        asyncio.run(read_images(request, LIMITS))


def test_a_chunked_body_is_not_trusted_about_its_length():
    limits = replace(LIMITS, part_bytes=10)
    with pytest.raises(RequestTooLargeError):
        read([b"x" * 11], "image/png", 1, limits, transfer_encoding="chunked")


@pytest.mark.parametrize("kind", ["image/png", "application/json"])
def test_what_must_be_held_whole_is_limited(kind):
    limits = replace(LIMITS, part_bytes=2**21)
    body = Body(b"{" * 2**16 for _ in range(1000))
    with pytest.raises(RequestTooLargeError, match="2097152 are held at once") as caught:
        asyncio.run(read_images(request_of(body, kind), limits))
    assert "max_buffer_bytes" in caught.value.hint
    assert body.reads == 2**21 // 2**16 + 1
    body = Body(b"{" * 2**16 for _ in range(1000))
    with pytest.raises(RequestTooLargeError):
        asyncio.run(read_images(request_of(body, kind, 2**21 + 1), limits))
    assert body.reads <= 1  # the first bytes may be those of an array


def test_one_image_is_held_once():
    size = 2**25

    async def length() -> int:
        body = Body(b"x" * 2**16 for _ in range(2**9))
        images = await read_images(request_of(body), replace(LIMITS, part_bytes=size))
        assert not isinstance(images, ImageStream)
        (image,) = images
        assert isinstance(image, bytes)
        return len(image)

    image_bytes, peak = peak_bytes(lambda: asyncio.run(length()))
    assert image_bytes == size
    assert peak < 1.3 * size


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), cuts())
def test_json_in_any_pieces(images, places):
    body = as_json(*images)
    assert read(split(body, places), "application/json") == images


def test_small_json_needs_no_thread_and_large_json_gets_one():
    async def threads(body: bytes) -> int:
        before = threading.active_count()
        await read_images(request_of(Body([body]), "application/json", len(body)), LIMITS)
        return threading.active_count() - before

    assert asyncio.run(threads(as_json(b"x" * 1_000))) == 0
    assert asyncio.run(threads(as_json(b"x" * 100_000))) == 1
    assert read_whole(as_json(b"x" * 100_000), "application/json") == [b"x" * 100_000]


def test_json_that_is_wrong():
    for text in ("{", "[]", "{}", '{"images": [1]}'):
        with pytest.raises(MalformedRequestError):
            read_whole(text.encode(), "application/json")
    with pytest.raises(EmptyRequestError):
        read_whole(b'{"images": []}', "application/json")
    with pytest.raises(RequestTooLargeError, match="2 images; the limit is 1"):
        read_whole(as_json(b"", b""), "application/json", replace(LIMITS, images=1))
    body = b'{"images": ["%%%", "data:,x", "data:image/png;base64,eA=="]}'
    first, second, third = read_whole(body, "application/json")
    assert isinstance(first, ImageError)
    assert isinstance(second, ImageError)
    assert third == b"x"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("{", "the body", "Invalid JSON"),
        ("[]", "the body", "Input should be an object"),
        ('{"x": 1}', "images", "Field required"),
        ('{"images": {}}', "images", "Input should be a valid array"),
        ('{"images": ["", null, 2], "x": 1}', "images.1", "Input should be a valid string"),
        ('{"y": 1, "images": [], "x": 2}', "y", "Extra inputs are not permitted"),
    ],
)
def test_json_is_told_where_it_is_wrong(text, where, what):
    with pytest.raises(MalformedRequestError, match=f"not right at {where}: {what}"):
        read_whole(text.encode(), "application/json")


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": [' + b"1," * 100_000 + b"1]}",
        b'{"images": []' + b"".join(b',"%d":1' % number for number in range(20_000)) + b"}",
    ],
    ids=["values", "names"],
)
def test_wrong_json_takes_no_more_memory_than_good(body):
    """The parser asks for twelve times the body; all that is wrong, told, is hundreds of it."""
    found, peak = peak_bytes(lambda: outcome(lambda: read_whole(body, "application/json")))
    assert found
    assert peak < 30 * len(body)


def test_json_of_millions_of_values_is_not_even_parsed():
    body = b'{"images": [' + b"{}," * 2_000_000 + b"{}]}"
    with pytest.raises(RequestTooLargeError, match="numbers and lists; the limit is 8000000"):
        read_whole(body, "application/json", replace(LIMITS, part_bytes=2**23))


@pytest.mark.parametrize(
    ("kind", "begun"),
    [
        ("image/png", b""),
        ("image/png", b"pict"),
        ("image/png", b"picture"),
        ("application/json", b"{"),
        ("application/x-npy", b"\x93NUM"),
        ("application/x-npy", b"\x93NUMPY\x01\x00v\x00{"),
        ("application/x-npy", header("(1000, 50, 50, 3)") + b"pixels"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\n"),
    ],
)
@pytest.mark.parametrize("stated", [True, False])
def test_a_client_that_hangs_up_is_noticed(kind, begun, stated):
    body = Body([begun], hang_up=True)
    length = len(header("(1000, 50, 50, 3)")) + 7_500_000 if stated else None
    limits = replace(LIMITS, part_bytes=2**23)
    with pytest.raises(ClientDisconnect):
        asyncio.run(chunks_of(request_of(body, kind, length), limits))


@pytest.mark.parametrize(
    "kind",
    [None, "application/json", "application/x-npy", "multipart/form-data; boundary=x"],
)
@settings(deadline=None)
@given(body=st.binary(max_size=100), places=cuts())
def test_any_bytes_are_images_or_an_input_error(kind, body, places):
    """And the same whether the body comes at once or in pieces, with or without its length."""
    whole = outcome(lambda: read_whole(body, kind))
    pieces = outcome(lambda: read(split(body, places), kind))
    if isinstance(whole, tuple):
        assert issubclass(whole[0], InputError)
        assert issubclass(pieces[0], InputError)
    else:
        assert pieces == whole


def test_nothing_is_read_that_nobody_asks_for():
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n1\r\n'

    async def read_one(body: Body) -> None:
        images = await read_images(request_of(body, "multipart/form-data; boundary=x"), LIMITS)
        assert isinstance(images, ImageStream)
        assert images.count is None
        async for _ in images.chunks:
            break

    body = Body(parts())
    asyncio.run(read_one(body))
    assert body.reads == 2

"""How a body is read, and taken apart in JSON and tensors."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from service.api.limits import BodyLimits
from service.api.oip.body import read_head, reading_body, split
from service.engine.errors import EmptyRequestError, MalformedRequestError, RequestTooLargeError
from tests.service.api.handmade import Body as Pieces
from tests.service.api.handmade import cuts, request_of
from tests.service.api.handmade import split as cut

LIMITS = BodyLimits(images=10, image_pixels=10, part_bytes=10_000)
LENGTH = "inference_header_content_length"


async def enter(request: Request) -> None:
    async with reading_body(request, read_head(request.scope), LIMITS):
        pass


def read(blocks: list[bytes], length: int | None = None, **headers: str) -> tuple[object, bytes]:
    request = request_of(Pieces(blocks), length=length, **headers)
    request.app.state.inflations = asyncio.Semaphore()

    async def reading() -> tuple[object, bytes]:
        async with reading_body(request, read_head(request.scope), LIMITS) as body:
            return body.json, bytes(body.tensors)

    return asyncio.run(reading())


@given(st.binary(min_size=1, max_size=300), st.integers(0, 300), cuts())
def test_a_body_is_split_where_its_header_says(body, at, where):
    at = min(at, len(body))
    json, tensors = read(cut(body, where), len(body), **{LENGTH: str(at)})
    if at == 0:
        assert (json, tensors) == (None, body)
    else:
        assert (json, tensors) == (body[:at], body[at:])


@given(st.binary(min_size=1, max_size=300), cuts())
def test_without_header_all_of_it_is_json(body, where):
    packed = gzip.compress(body)
    assert read(cut(body, where)) == (body, b"")
    assert read(cut(packed, where), len(packed), content_encoding="gzip") == (body, b"")
    for plain in ("Identity", "", "identity, identity"):
        assert read([body], len(body), content_encoding=plain) == (body, b"")
    coding = "identity, GZIP"
    assert read(cut(packed, where), len(packed), content_encoding=coding) == (body, b"")


@pytest.mark.parametrize(
    "stated", ["-1", "+5", "1_0", "5.0", "", " 5", "5 ", "0x5", "٣", "12345678901"]
)
def test_a_length_is_plain_digits(stated):
    with pytest.raises(MalformedRequestError, match="Inference-Header-Content-Length"):
        split(
            b"body",
            read_head(
                {"headers": [(LENGTH.replace("_", "-").encode(), stated.encode())]}
            ).json_bytes,
        )


def test_a_length_is_stated_once_and_is_there():
    header = (LENGTH.replace("_", "-").encode(), b"4")
    with pytest.raises(MalformedRequestError, match="4, 4"):
        read_head({"headers": [header, header]})
    with pytest.raises(MalformedRequestError, match="but the body has 3 bytes"):
        split(b"abc", 4)
    with pytest.raises(EmptyRequestError):
        split(b"", None)


def test_what_is_too_large_is_refused_before_and_while_it_is_read():
    pieces = Pieces([b"x"])
    request = request_of(pieces, length=10_001)
    with pytest.raises(RequestTooLargeError, match="10001"):
        asyncio.run(enter(request))
    assert pieces.reads == 0
    endless = Pieces([bytes(1000)] * 100)
    request = request_of(endless)
    with pytest.raises(RequestTooLargeError, match="11000"):
        asyncio.run(enter(request))
    assert endless.reads == 11


def test_another_is_inflated_only_when_this_one_has_been_read():
    request = request_of(Pieces([gzip.compress(b"x" * 1000)]), content_encoding="gzip")

    async def scenario() -> None:
        request.app.state.inflations = one = asyncio.Semaphore(1)
        async with reading_body(request, read_head(request.scope), LIMITS):
            assert one.locked()
        assert not one.locked()

    asyncio.run(scenario())


@pytest.mark.parametrize("blocks", [[], [b"abc"], [b"abc", b"def"]])
def test_a_client_that_hangs_up_is_noticed(blocks):
    request = request_of(Pieces(blocks, hang_up=True))
    with pytest.raises(ClientDisconnect):
        asyncio.run(enter(request))

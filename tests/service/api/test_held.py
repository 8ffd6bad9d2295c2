"""Memory for the bodies of all requests together."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from starlette.concurrency import run_in_threadpool

from service.api.held import HeldBytes, Holding, begin_holding
from service.api.limits import BodyLimits
from service.api.oip.compression import inflate
from service.engine.errors import QueueFullError, RequestTooLargeError
from tests.service.api.handmade import Body, chunks_of, request_of
from tests.service.api.test_npy import header

MIB = 2**20
LIMITS = BodyLimits(images=10, image_pixels=4 * MIB, part_bytes=8 * MIB)


def test_what_is_taken_is_refused_to_others_until_it_is_given_back():
    room = HeldBytes(4 * MIB)
    one, another = Holding(room), Holding(room)
    one.grow(4 * MIB)
    one.grow(2 * MIB)  # less than before: a part of a form after a larger one
    another.grow(2 * MIB)  # the first of each is free
    for refused in (another.grow, another.check):
        with pytest.raises(QueueFullError, match="take 4194304 bytes; the limit is 4194304"):
            refused(2 * MIB + 1)
    with pytest.raises(QueueFullError):
        Holding(room).check(3 * MIB)
    Holding(room).check(MIB)
    one.end()
    one.end()
    another.check(5 * MIB)
    another.grow(5 * MIB)
    with pytest.raises(RequestTooLargeError, match="max_held_bytes"):
        Holding(room).grow(5 * MIB + 1)


PARTS = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"1" * 3 * MIB
ARRAY = header("(1, 1024, 1024, 3)") + b"x" * 3 * MIB


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("image/png", b"x" * 3 * MIB),
        ("application/json", json.dumps({"images": ["A" * 3 * MIB]}).encode()),
        ("application/x-ndjson", b'"' + b"A" * 3 * MIB + b'"\n'),
        ("multipart/form-data; boundary=x", PARTS + b"\r\n--x--\r\n"),
        ("application/x-npy", ARRAY),
    ],
)
@pytest.mark.parametrize("stated", [True, False])
def test_whatever_is_held_of_a_body_is_counted(kind, content, stated):
    blocks = [content[start : start + 2**16] for start in range(0, len(content), 2**16)]

    async def read(room: HeldBytes) -> int:
        holding = begin_holding(room)
        try:
            request = request_of(Body(blocks), kind, len(content) if stated else None)
            return sum(map(len, await chunks_of(request, LIMITS)))
        finally:
            holding.end()

    room = HeldBytes(5 * MIB)
    other = Holding(room)
    other.grow(5 * MIB)
    with pytest.raises(QueueFullError):
        asyncio.run(read(room))
    other.end()
    assert asyncio.run(read(room)) == 1
    room.check(5 * MIB)  # all of it is free again


def test_what_a_body_is_inflated_to_is_counted_besides_it():
    room = HeldBytes(4 * MIB)
    packed = gzip.compress(b"x" * 4 * MIB)

    async def inflating() -> int:
        begin_holding(room)
        return len(await run_in_threadpool(inflate, packed, "gzip", LIMITS))

    assert asyncio.run(inflating()) == 4 * MIB
    room.check(MIB - len(packed))
    with pytest.raises(QueueFullError):
        room.check(MIB - len(packed) + 1)
    with pytest.raises(QueueFullError):
        asyncio.run(inflating())

"""Requests without a network: the test says in which pieces the body comes."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from service.api.bodies import read_images
from service.api.limits import BodyLimits
from service.engine.images import Chunk, ImageStream

LIMITS = BodyLimits(images=200_000, image_pixels=10_000, part_bytes=2**22)

_T = TypeVar("_T")


class Body:
    """A body that comes in the given pieces; counts the reads of it."""

    def __init__(self, blocks: Iterable[bytes], *, hang_up: bool = False) -> None:
        self.blocks: Iterator[bytes] = iter(blocks)
        self.hang_up = hang_up
        self.reads = 0

    async def receive(self) -> Message:
        self.reads += 1
        block = next(self.blocks, None)
        if block is None and self.hang_up:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": block or b"", "more_body": block is not None}


def request_of(
    body: Body, kind: str | None = None, length: int | None = None, **headers: str
) -> Request:
    raw = [(b"host", b"localhost"), (b"accept", b"*/*")]
    if kind is not None:
        raw.append((b"content-type", kind.encode()))
    if length is not None:
        raw.append((b"content-length", str(length).encode()))
    raw += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    app = SimpleNamespace(state=SimpleNamespace(large_json=asyncio.Lock()))
    return Request({"type": "http", "method": "POST", "headers": raw, "app": app}, body.receive)


async def chunks_of(request: Request, limits: BodyLimits = LIMITS) -> list[Chunk]:
    """Everything that is read; what comes whole is one chunk."""
    images = await read_images(request, limits)
    if not isinstance(images, ImageStream):
        return [images]
    chunks = [chunk async for chunk in images.chunks]
    if images.count is not None:
        assert sum(map(len, chunks)) == images.count
    return chunks


def read(
    blocks: Iterable[bytes],
    kind: str | None = None,
    length: int | None = None,
    limits: BodyLimits = LIMITS,
    **headers: str,
) -> list[Any]:
    """The images of a body, one after the other: bytes, errors, or arrays [H, W, 3]."""
    request = request_of(Body(blocks), kind, length, **headers)
    return list(itertools.chain.from_iterable(asyncio.run(chunks_of(request, limits))))


def read_whole(body: bytes, kind: str | None = None, limits: BodyLimits = LIMITS) -> list[Any]:
    """The images of a body whose length is stated and that comes at once."""
    return read([body], kind, len(body), limits)


def split(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def cuts() -> st.SearchStrategy[list[int]]:
    """Where to split a body; now and then in single bytes."""
    return st.one_of(
        st.lists(st.integers(0, 2**16), max_size=12),
        st.just(list(range(4_000))),
    )


def outcome(call: Callable[[], list[Any]]) -> Any:
    """What a call gives, or the type and text of what it raises."""
    try:
        return [np.asarray(image).tolist() for image in call()]
    except Exception as error:
        return type(error), str(error)


def peak_bytes(call: Callable[[], _T]) -> tuple[_T, int]:
    """What a call gives, and how much memory it held at most."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

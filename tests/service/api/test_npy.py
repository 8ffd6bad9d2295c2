"""Arrays: any pieces give the same images, whatever is wrong is found, and little is held."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.bodies import read_images
from service.api.npy import parse_array
from service.engine.errors import (
    EmptyRequestError,
    InputError,
    InvalidTensorError,
    RequestTooLargeError,
)
from service.engine.images import ImageStream
from tests.service.api.handmade import (
    LIMITS,
    Body,
    chunks_of,
    cuts,
    peak_bytes,
    read,
    request_of,
    split,
)

KIND = "application/x-npy"


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version)
    return buffer.getvalue()


def header(shape: str, datatype: str = "|u1", order: bool = False) -> bytes:
    """An .npy header that says what it likes."""
    text = f"{{'descr': '{datatype}', 'fortran_order': {order}, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def as_rgb(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array
    return array[None] if array.shape[2] == 3 else np.stack([array] * 3, axis=3)


def arrays() -> st.SearchStrategy[np.ndarray]:
    size = st.integers(1, 7)
    shapes = st.one_of(
        st.tuples(size, size, size, st.just(3)), st.tuples(size, size, size),
        st.tuples(size, size, st.just(3)),
    )  # fmt: skip
    return st.builds(
        lambda shape, order, seed: np.asarray(
            np.random.default_rng(seed).integers(0, 256, shape, np.uint8), order=order
        ),
        shapes, st.sampled_from("CF"), st.integers(0, 9),
    )  # fmt: skip


@settings(deadline=None)
@given(arrays(), st.sampled_from([(1, 0), (2, 0)]), cuts())
def test_any_pieces_give_the_same_images(array, version, places):
    body = npy(array, version)
    assert np.array_equal(parse_array(body, LIMITS), as_rgb(array))
    for kind in (KIND, "image/png"):
        assert np.array_equal(read(split(body, places), kind), as_rgb(array))


@settings(deadline=None)
@given(arrays(), st.binary(max_size=3), st.integers(-300, 3), cuts())
def test_a_body_of_another_length_than_the_array_is_noticed(array, extra, missing, places):
    whole = npy(array)
    body = whole + extra if missing >= 0 else whole[:missing] or b"\x93"
    if body == whole:
        return
    with pytest.raises(InvalidTensorError):
        parse_array(body, LIMITS)
    with pytest.raises(InvalidTensorError):
        read(split(body, places), KIND)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "shape", [(1000, 32, 32, 3), (3000, 28, 28), (5, 100, 100, 3), (400, 60, 60, 3), (90_000, 1, 2)]
)
def test_chunks_are_of_a_size_for_batches(shape, order):
    array = np.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8), order=order)
    body = npy(array)
    blocks = split(body, range(0, len(body), 2**16))
    limits = replace(LIMITS, part_bytes=array.size)
    chunks = [
        np.asarray(chunk)
        for chunk in asyncio.run(chunks_of(request_of(Body(blocks), KIND), limits))
    ]
    assert np.array_equal(np.concatenate(chunks), as_rgb(array))
    first = chunks[0]
    assert len(first) == min(256, shape[0]) or 2**18 <= first.size <= 2**19
    assert {len(chunk) for chunk in chunks[:-1]} <= {len(first)}
    assert all(chunk.dtype == np.uint8 for chunk in chunks)


def test_a_stated_length_must_agree_at_once():
    array = np.zeros((1_000, 32, 32, 3), np.uint8)
    body = npy(array)
    for length in (len(body) - 1, len(body) + 1):
        pieces = Body(split(body, range(0, len(body), 2**16)))
        with pytest.raises(InvalidTensorError, match="not an array of shape"):
            asyncio.run(read_images(request_of(pieces, KIND, length), LIMITS))
        assert pieces.reads == 2  # split() begins with an empty one
    assert len(read([body], KIND, len(body))) == 1_000


def test_the_last_images_wait_for_the_end_of_the_body():
    async def images_before_the_error(body: bytes) -> int:
        images = await read_images(request_of(Body([body]), KIND), LIMITS)
        assert isinstance(images, ImageStream)
        assert images.count == 300
        seen = 0
        try:
            async for chunk in images.chunks:
                seen += len(chunk)
        except InvalidTensorError:
            return seen
        return -1

    body = npy(np.zeros((300, 32, 32, 3), np.uint8))
    assert asyncio.run(images_before_the_error(body + b"x")) == 256
    assert asyncio.run(images_before_the_error(body[:-1])) == 256
    assert asyncio.run(images_before_the_error(body[:1_000])) == 0


HOSTILE = [
    header("(2, 16, 16, 3", order=True),
    header("(9**9, 16, 1, 3)"),
    header("(-1, -1, 1, 3)"),
    header("(True, 1, 1, 3)"),
    header("(1.5,)"),
    header("()"),
    header("(99999999999, 1, 3)"),
    header(str((1,) * 33)),
    header("(1, 1, 1, 4)"),
    header("(1, 1)"),
    header("(1, 0, 1, 3)"),
    header("(1, 101, 100, 3)"),
    header("(1, 1, 1, 3)", datatype="<f4"),
    header("(1, 1, 1, 3)", datatype="|O"),
    b"\x93NUMPY\x03\x00" + header("(1, 1, 1, 3)")[8:],
    b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 100_000,
    b"\x93NUMPY\x01\x00\xff\xff" + b" " * 100_000,
    b"PK\3\4 a zip" * 10,
    b"PK",
    b"\x93NUMPY",
]


@pytest.mark.parametrize("start", HOSTILE)
def test_a_header_that_is_wrong_is_refused_before_the_data(start):
    with pytest.raises(InvalidTensorError) as caught:
        parse_array(start, LIMITS)
    assert caught.value.hint
    body = Body([*split(start, range(0, len(start), 2**13)), *[b"x" * 2**13] * 1_000])
    with pytest.raises(InvalidTensorError):
        asyncio.run(read_images(request_of(body, KIND), LIMITS))
    assert body.reads < 10


def test_limits_are_checked_before_the_data():
    def refusal(start: bytes, **limits: int) -> InputError:
        body = Body([start, b""])
        with pytest.raises(InputError) as caught:
            asyncio.run(read_images(request_of(body, KIND), replace(LIMITS, **limits)))
        assert body.reads == 1
        return caught.value

    assert isinstance(refusal(header("(0, 1, 1, 3)")), EmptyRequestError)
    assert isinstance(refusal(header("(9, 1, 1, 3)"), images=8), RequestTooLargeError)
    error = refusal(header("(9, 30, 30)"), part_bytes=2_699)
    assert isinstance(error, RequestTooLargeError)
    assert "max_buffer_bytes" in error.hint
    error = refusal(header("(9, 30, 30)", order=True), part_bytes=9 * 900 - 1)
    assert isinstance(error, InvalidTensorError)
    assert "Fortran" in error.detail
    assert "max_buffer_bytes" in error.hint


@pytest.mark.parametrize("shape", ["(65200, 32, 32, 3)", "(195600, 32, 32)"])
def test_200_mb_go_through_little_memory(shape):
    size = 65_200 * 32 * 32 * 3

    def body() -> Iterator[bytes]:
        yield header(shape)
        for start in range(0, size, 2**16):
            yield bytes(min(2**16, size - start))

    async def count() -> int:
        images = await read_images(request_of(Body(body()), KIND), LIMITS)
        assert isinstance(images, ImageStream)
        seen = sum([len(chunk) async for chunk in images.chunks])
        assert seen == images.count
        return seen

    images, peak = peak_bytes(lambda: asyncio.run(count()))
    assert images in (65_200, 195_600)
    assert peak < 2**21

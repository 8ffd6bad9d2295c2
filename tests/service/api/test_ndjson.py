"""Images as lines of JSON: what a line may be, and that cuts in the body don't matter."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.bodies import read_images
from service.engine.errors import EmptyRequestError, ImageDecodeError, RequestTooLargeError
from service.engine.images import ImageStream
from tests.service.api.handmade import (
    LIMITS,
    Body,
    cuts,
    outcome,
    peak_bytes,
    read,
    read_whole,
    request_of,
    split,
)

KIND = "application/x-ndjson"


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [KIND, "application/ndjson", "application/jsonl; charset=utf-8"])
def test_every_form_of_a_line_is_an_image(kind):
    lines = [
        json.dumps(text_of(b"one")),
        json.dumps({"image": text_of(b"two")}),
        json.dumps({"b64": "data:image/png;base64," + text_of(b"three")}),
    ]
    assert read_whole("\n".join(lines).encode(), kind) == [b"one", b"two", b"three"]
    assert read_whole("\r\n\r\n".join(lines).encode() + b"\n", kind) == [b"one", b"two", b"three"]


def test_an_array_in_a_line_is_all_its_images():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    lines = [text_of(b"first"), text_of(npy(pixels)), text_of(b"last")]
    found = read_whole("\n".join(map(json.dumps, lines)).encode(), KIND)
    assert found[0] == b"first"
    np.testing.assert_array_equal(found[1:4], pixels)
    assert found[4] == b"last"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "JSON"),
        ("7", "not an image"),
        ("null", "not an image"),
        ('{"image": 1}', "not an image"),
        ('{"picture": "AAAA"}', "not an image"),
        ('{"image": "AAAA", "b64": "AAAA"}', "not an image"),
        ('"***"', "base64"),
        ("[" * 100_000, "100000 values of JSON"),
        ("[" * 90, "JSON"),
        ('{"image": [' + "{}," * 30 + "{}]}", "values of JSON"),
        (json.dumps(text_of(npy(np.zeros((2, 4, 4, 3), np.float32)))), "float32"),
        (json.dumps(text_of(npy(np.zeros((2, 4, 4, 3), np.uint8))[:-1])), "shape"),
    ],
)
def test_a_bad_line_is_one_bad_image(line, word):
    good = json.dumps(text_of(b"good"))
    first, bad, last = read_whole(f"{good}\n{line}\n{good}\n".encode(), KIND)
    assert first == last == b"good"
    assert isinstance(bad, ImageDecodeError)
    assert word in bad.detail


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(['"AAAA"', '{"b64": "QUJD"}', "", " ", "nonsense", '"' + "QUJD" * 30 + '"'])
    ),
    st.sampled_from(["\n", "\r\n"]),
    cuts(),
)
def test_it_does_not_matter_where_the_network_cuts(lines, end, where):
    body = end.join(lines).encode()

    def found(blocks: list[bytes]) -> Any:
        return outcome(lambda: [str(image) for image in read(blocks, KIND)])

    assert found(split(body, where)) == found([body])


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\n"])
def test_no_line_is_no_image(body):
    with pytest.raises(EmptyRequestError):
        read_whole(body, KIND)


def test_a_long_line_is_refused_before_it_is_complete():
    limits = replace(LIMITS, part_bytes=1000)
    with pytest.raises(RequestTooLargeError, match="line"):
        read([b'"', b"A" * 990, b"A" * 20], KIND, limits=limits)
    assert len(read([b'"' + b"A" * 988 + b'"\n'] * 20, KIND, limits=limits)) == 20


def test_too_many_lines_are_refused():
    with pytest.raises(RequestTooLargeError, match="limit is 3"):
        read([b'"AAAA"\n'] * 4, KIND, limits=replace(LIMITS, images=3))


def test_nothing_is_made_of_a_line_of_many_values():
    line = b"[" + b"{}," * 100_000 + b"{}]"
    (bad,), peak = peak_bytes(lambda: read_whole(line, KIND))
    assert isinstance(bad, ImageDecodeError)
    assert peak < 5 * len(line)


def test_memory_holds_one_line_and_not_the_body():
    line = json.dumps(text_of(b"x" * 3000)).encode() + b"\n"

    def count() -> int:
        async def drain() -> int:
            images = await read_images(request_of(Body(line for _ in range(5000)), KIND), LIMITS)
            assert isinstance(images, ImageStream)
            return sum([len(chunk) async for chunk in images.chunks])

        return asyncio.run(drain())

    found, peak = peak_bytes(count)
    assert found == 5000
    assert peak < 2**20

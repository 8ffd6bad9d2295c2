"""Base64 as people's programs write it."""

from __future__ import annotations

import base64

import pytest

from service.api.base64_images import decode_base64
from service.engine.errors import ImageDecodeError
from tests.service.api.handmade import peak_bytes


@pytest.mark.parametrize("between", ["", "\n", "\r\n", " \t", "\v\f\x1c\x1d\x1e\x1f"])
@pytest.mark.parametrize("before", ["", "data:image/png;base64,", "DATA:;BASE64,"])
def test_white_space_carries_no_data(between, before):
    text = base64.b64encode(b"picture").decode()
    assert decode_base64(before + between + between.join(text) + between) == b"picture"


@pytest.mark.parametrize("text", ["A", "AAA", "A*AA", "A\x00AA", "AAAÄ", "AAA\u2003", "data:,AAAA"])
def test_what_is_no_base64(text):
    found = decode_base64(text)
    assert isinstance(found, ImageDecodeError)
    assert "base64" in found.detail


def test_a_text_of_millions_of_words_takes_no_more_memory_than_another():
    text = "AB " * 100_000
    found, peak = peak_bytes(lambda: decode_base64(text))
    assert isinstance(found, bytes)
    assert peak < 4 * len(text)

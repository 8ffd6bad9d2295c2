from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.limits import BodyLimits
from service.api.oip.compression import accepted_coding, check_coding, deflate, inflate
from service.engine.errors import (
    MalformedRequestError,
    RequestTooLargeError,
    UnsupportedMediaError,
)
from tests.service.api.handmade import peak_bytes

LIMITS = BodyLimits(images=10, image_pixels=10, part_bytes=2**20)
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("coding", COMPRESSORS)
@given(st.binary(max_size=2000), st.integers(1, 100))
def test_what_was_compressed_comes_back(coding, data, times):
    assert inflate(COMPRESSORS[coding](data * times), coding, LIMITS) == data * times


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@given(st.binary(max_size=2000))
def test_what_we_compress_others_can_read(coding, data):
    packed = deflate(data, coding)
    assert (gzip if coding == "gzip" else zlib).decompress(packed) == data
    assert inflate(packed, coding, LIMITS) == data


@pytest.mark.parametrize("coding", COMPRESSORS)
@given(st.binary(max_size=500))
def test_anything_is_inflated_or_refused(coding, junk):
    for body in (junk, COMPRESSORS[coding](b"x" * 100)[:-1] + junk):
        with contextlib.suppress(MalformedRequestError):
            inflate(body, coding, LIMITS)


@pytest.mark.parametrize("coding", COMPRESSORS)
def test_a_stream_is_whole_and_alone(coding):
    good = COMPRESSORS[coding](bytes(200_000) + bytes(range(256)))
    for wrong, word in (
        (good[:-1], "cut short"),
        (good[:20], "cut short"),
        (b"", "cut short"),
        (good + b"x", "behind the end"),
        (good + good, "behind the end"),
        (good + bytes(200_000), "behind the end"),
        (b"x" + good, "no "),
    ):
        with pytest.raises(MalformedRequestError, match=word):
            inflate(wrong, coding, LIMITS)


@pytest.mark.parametrize("coding", COMPRESSORS)
def test_no_more_than_the_limit_is_ever_held(coding):
    at_limit = COMPRESSORS[coding](bytes(LIMITS.part_bytes))
    assert len(inflate(at_limit, coding, LIMITS)) == LIMITS.part_bytes
    bomb = COMPRESSORS[coding](bytes(50 * LIMITS.part_bytes))

    def try_it() -> None:
        with pytest.raises(RequestTooLargeError, match="inflated"):
            inflate(bomb, coding, LIMITS)

    _, held = peak_bytes(try_it)
    assert held < 6 * LIMITS.part_bytes


def test_other_codings_are_refused():
    for coding in ("br", "zstd", "gzip, gzip", "identity;q=1"):
        with pytest.raises(UnsupportedMediaError, match=coding):
            check_coding(coding)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (b"", None),
        (b"*", None),
        (b"br", None),
        (b"identity", None),
        (b"gzip", "gzip"),
        (b"GZIP", "gzip"),
        (b"deflate", "deflate"),
        (b"deflate, gzip;q=1.0", "deflate"),
        (b"br;q=1, gzip ; q=0.2", "gzip"),
        (b"gzip;q=0", None),
        (b"gzip;q=0.000, deflate", "deflate"),
        (b"\xff\xfe,,;;", None),
    ],
)
def test_what_a_client_accepts(header, coding):
    assert accepted_coding(header) == coding

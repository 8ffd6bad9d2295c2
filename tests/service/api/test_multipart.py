"""Forms: any pieces give the same files, whatever is wrong is found, and little is held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.bodies import read_images
from service.engine.errors import (
    EmptyRequestError,
    InputError,
    MalformedRequestError,
    RequestTooLargeError,
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

KIND = "multipart/form-data; boundary=xyz"
DISPOSITION = 'Content-Disposition: form-data; name="f"; filename="a.png"'


def part(content: bytes, *headers: str) -> bytes:
    head = "\r\n".join(headers or (DISPOSITION,))
    return b"--xyz\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*contents: bytes) -> bytes:
    return b"".join(map(part, contents)) + b"--xyz--\r\n"


def contents() -> st.SearchStrategy[list[bytes]]:
    """Files, many of them with something that is nearly the boundary."""
    pieces = st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n--xy", b"xyz", b"z", b" "])
    tricky = st.lists(pieces, max_size=8).map(b"".join)
    file = st.one_of(st.binary(max_size=300), tricky).filter(lambda data: b"\r\n--xyz" not in data)
    return st.lists(file, min_size=1, max_size=6)


@settings(deadline=None)
@given(contents(), cuts())
def test_any_pieces_give_the_same_files(files, places):
    body = form(*files)
    assert read_whole(body, KIND) == files
    assert read(split(body, places), KIND) == files


@settings(deadline=None)
@given(contents(), st.integers(1, 10_000), cuts())
def test_a_form_that_is_cut_off_anywhere_is_noticed(files, missing, places):
    body = form(*files)[:-2]  # the last line break may be missing
    body = body[: -(missing % len(body)) or -1]
    for blocks, length in (([body], len(body)), (split(body, places), None)):
        with pytest.raises(MalformedRequestError, match="cut short"):
            read(blocks, KIND, length)


@settings(deadline=None)
@given(st.lists(st.sampled_from(
    [b"--xyz", b"--xyz--", b"\r\n", b"\r", DISPOSITION.encode(), b":", b"a: b", b" ", b"\x00", b"c"]
)).map(b"".join), cuts())  # fmt: skip
def test_a_wrong_form_is_wrong_in_any_pieces(body, places):
    whole = outcome(lambda: read_whole(body, KIND))
    pieces = outcome(lambda: read(split(body, places), KIND))
    if isinstance(whole, tuple):
        assert issubclass(whole[0], InputError)
        assert pieces[0] == whole[0]
    else:
        assert pieces == whole


def test_what_an_http_library_writes():
    files = [b"1" * 3_000, b"", b"2" * 2_000_000, b"3"]
    request = httpx.Request(
        "POST", "http://x", files=[("images", ("bild ü.png", file, "image/png")) for file in files]
    )
    body, kind = request.read(), request.headers["content-type"]
    assert read(split(body, range(0, len(body), 2**16)), kind, len(body)) == files


def test_what_stands_around_the_parts():
    body = b"\r\n\r\n" + form(b"1", b"2") + b"an epilogue"
    for blocks in ([body], split(body, range(len(body)))):
        assert read(blocks, KIND) == [b"1", b"2"]
    body = b"\r\na preamble\r\n" + form(b"1")
    for blocks in ([body], split(body, range(len(body)))):
        with pytest.raises(MalformedRequestError):
            read(blocks, KIND)
    with pytest.raises(EmptyRequestError):
        read([b"\r", b"\n"], KIND)


def test_parts_come_as_soon_as_they_are_complete():
    body = form(*[b"%d" % index for index in range(200)])
    half = body.index(b"\r\n100\r\n") + 10
    request = request_of(Body([body[:half], body[half:]]), KIND)
    chunks = asyncio.run(chunks_of(request))
    assert [len(chunk) for chunk in chunks] == [64, 36, 64, 36]


def test_forms_without_a_file():
    with pytest.raises(EmptyRequestError, match="no file"):
        read_whole(b"--xyz--\r\n", KIND)
    for body in (part(b"3", 'Content-Disposition: form-data; name="top_k"'), part(b"", "")):
        with pytest.raises(MalformedRequestError):
            read_whole(body + b"--xyz--\r\n", KIND)
    text = part(b"3", 'Content-Disposition: form-data; name="top_k"')
    with pytest.raises(MalformedRequestError, match="'top_k' is text"):
        read([text], KIND)  # no need to see the end
    with pytest.raises(MalformedRequestError, match="no Content-Disposition with a name"):
        read_whole(part(b"3", 'Content-Disposition: form-data; filename="a"'), KIND)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 1000,
    ],
)
@pytest.mark.parametrize("length", [4, None])
def test_a_boundary_that_cannot_be_used(kind, length):
    with pytest.raises(MalformedRequestError):
        read([b"junk"], kind, length)


def test_the_charset_of_a_form_does_not_touch_its_files():
    for charset in ("utf-8", "undefined", "nonsense"):
        assert read_whole(form(b"\xff"), f"{KIND}; charset={charset}") == [b"\xff"]


@pytest.mark.parametrize("encoding", ["base64", "Quoted-Printable", "x-own"])
def test_a_transfer_encoding_is_refused_not_taken_for_the_image(encoding):
    coded = part(b"eA==", DISPOSITION, f"Content-Transfer-Encoding: {encoding}")
    with pytest.raises(MalformedRequestError, match=f"'f' has .*{encoding.lower()}") as caught:
        read_whole(coded, KIND)
    assert "as they are" in caught.value.hint
    for plain in ("binary", "8BIT", "7bit", "identity", ""):
        body = part(b"x", f"Content-Transfer-Encoding: {plain}", DISPOSITION) + b"--xyz--"
        assert read_whole(body, KIND) == [b"x"]


def test_the_number_of_parts_is_limited():
    limits = replace(LIMITS, images=3)
    assert len(read_whole(form(b"", b"", b""), KIND, limits)) == 3
    body = Body([part(b"")] * 100)
    with pytest.raises(RequestTooLargeError, match="4 images or more; the limit is 3"):
        asyncio.run(chunks_of(request_of(body, KIND), limits))
    assert body.reads == 4


def test_the_size_of_a_part_is_limited():
    limits = replace(LIMITS, part_bytes=100_000)
    assert read([form(b"x" * 100_000, b"y" * 100_000)], KIND, None, limits)
    with pytest.raises(RequestTooLargeError, match="100000 are held at once"):
        read([form(b"x" * 100_001)], KIND, None, limits)
    body = Body([part(b"x" * 1_000)[:-2], *[b"x" * 1_000] * 1_000])
    with pytest.raises(RequestTooLargeError) as caught:
        asyncio.run(chunks_of(request_of(body, KIND), limits))
    assert "max_buffer_bytes" in caught.value.hint
    assert body.reads <= 102


def test_the_headers_of_a_part_are_limited():
    fifteen = [f"X-{index}: y" for index in range(15)]
    assert read_whole(part(b"x", *fifteen, DISPOSITION) + b"--xyz--", KIND) == [b"x"]
    long = f"X: {'y' * 3_000}"
    for headers in ([*fifteen, "X: y", DISPOSITION], [long] * 3, ["X: " + "y" * 10**5]):
        body = part(b"x", *headers)
        for blocks in ([body], split(body, range(0, len(body), 7))):
            with pytest.raises(MalformedRequestError):
                read(blocks, KIND)
    endless = Body([b"--xyz\r\n", *[b"y" * 2**10] * 1_000])
    with pytest.raises(MalformedRequestError):
        asyncio.run(chunks_of(request_of(endless, KIND)))
    assert endless.reads < 12


def test_200_mb_go_through_little_memory():
    content = bytes(100_000)

    def body() -> Iterator[bytes]:
        for _ in range(2_000):
            yield part(content)[:50_000]
            yield part(content)[50_000:]
        yield b"--xyz--\r\n"

    async def count() -> int:
        images = await read_images(request_of(Body(body()), KIND), LIMITS)
        assert isinstance(images, ImageStream)
        return sum([len(chunk) async for chunk in images.chunks])

    parts, peak = peak_bytes(lambda: asyncio.run(count()))
    assert parts == 2_000
    assert peak < 2**20

"""Read the images out of a request's body, whatever form it has."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from enum import Enum, auto
from functools import lru_cache
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from service.api.base64_images import decode_base64
from service.api.content_coding import refuse_coding
from service.api.large_json import read_large
from service.api.limits import BodyLimits, check_json
from service.api.multipart import read_parts
from service.api.ndjson import read_lines
from service.api.npy import NPY_MAGIC, parse_array, stream_array
from service.engine.errors import (
    EmptyRequestError,
    MalformedRequestError,
    UnsupportedMediaError,
)
from service.engine.images import EncodedImages, Images, ImageStream

_KINDS_HINT = (
    "Send an image (image/* or application/octet-stream), multipart/form-data with files,"
    ' application/json {"images": ["<base64>"]}, application/x-ndjson with a base64 text a line, or'
    " application/x-npy uint8."
)
# A body up to this size is read whole: it is less than what the reading of a larger one holds.
_SMALL_BYTES = 2**20
# Parsing this much JSON takes about as long as handing it to another thread and back.
_PARSE_ON_LOOP_BYTES = 2**16


class _Kind(Enum):
    RAW = auto()  # one image, or an array; the content decides
    NPY = auto()
    JSON = auto()
    LINES = auto()
    MULTIPART = auto()


_KINDS = {
    "": _Kind.RAW,
    "application/octet-stream": _Kind.RAW,
    # curl --data-binary sends this type unless told otherwise.
    "application/x-www-form-urlencoded": _Kind.RAW,
    "application/x-npy": _Kind.NPY,
    "application/json": _Kind.JSON,
    "application/x-ndjson": _Kind.LINES,
    "application/ndjson": _Kind.LINES,
    "application/jsonl": _Kind.LINES,
    "multipart/form-data": _Kind.MULTIPART,
}


async def read_images(request: Request, limits: BodyLimits) -> Images:
    """Read a request's images by its content type.

    A body that is small, one image or JSON is read whole. A larger form or array, one whose length
    is not stated, or one of lines is read while the result is iterated over.

    Returns:
        Encoded images, in order, with an error in the place of one whose base64 is broken; or
        plain RGB pixels, uint8 [N, H, W, 3]; or a stream of either, whose iterator raises the same
        errors.

    Raises:
        InputError: The body is empty, too large, of another type, or not what its type says.
        ClientDisconnect: The client hung up before the body's end.
    """
    encodings, content_type, length = _read_head(request.scope)
    if encodings:
        refuse_coding(encodings)
    kind = _kind_of(content_type.partition(b";")[0])
    small = length is not None and length <= min(_SMALL_BYTES, limits.part_bytes)
    if kind is _Kind.MULTIPART:
        parts = read_parts(request.stream(), content_type, limits)
        return (
            [part async for some in parts for part in some] if small else ImageStream(None, parts)
        )
    if kind is _Kind.LINES:
        return ImageStream(None, read_lines(request.stream(), limits))
    if small:
        body = await _read_small(request)
    else:
        blocks = request.stream()
        try:
            read = await _read_large(kind, blocks, length, limits)
        except BaseException:
            await blocks.aclose()
            raise
        if isinstance(read, ImageStream):
            return read
        body = read
    if not body:
        raise EmptyRequestError("The body is empty.", hint=_KINDS_HINT)
    if kind is _Kind.JSON:
        if len(body) <= _PARSE_ON_LOOP_BYTES:
            return _parse_json(body, limits)
        return await read_large(request, _parse_json, body, limits)
    if kind is _Kind.NPY or body.startswith(NPY_MAGIC):
        return parse_array(body, limits)
    return [body]


async def _read_small(request: Request) -> bytes:
    """Read a body whole; most come in one piece, for which a stream is a long way."""
    message = await request.receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return bytes(message.get("body", b""))
    blocks = []
    while message["type"] == "http.request":
        blocks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(blocks)
        message = await request.receive()
    raise ClientDisconnect


def _read_head(scope: Scope) -> tuple[list[bytes], bytes, int | None]:
    """Pick the headers that say how to read the body, in one pass over all of them.

    Returns:
        Content encodings, as they came; content type, too; length in bytes if it is stated.
    """
    encodings: list[bytes] = []
    content_type = b""
    length: int | None = None
    chunked = False
    for name, value in scope["headers"]:  # ASGI gives the names in lower case
        if name == b"content-type":
            content_type = content_type or value
        elif name == b"content-length":
            length = int(value)  # the HTTP parser has made sure that this is a number
        elif name == b"transfer-encoding":
            chunked = True  # goes before a stated length (RFC 9112, 6.3)
        elif name == b"content-encoding":
            encodings.append(value)
    return encodings, content_type, None if chunked else length


@lru_cache(maxsize=64)
def _kind_of(content_type: bytes) -> _Kind:
    """How to read a body of this content type, given without parameters."""
    text = content_type.decode("latin-1").strip().lower()
    if text.startswith("image/"):
        return _Kind.RAW
    kind = _KINDS.get(text)
    if kind is None:
        raise UnsupportedMediaError(f"Content type {text!r} is not supported.", hint=_KINDS_HINT)
    return kind


async def _read_large(
    kind: _Kind, blocks: AsyncGenerator[bytes, None], length: int | None, limits: BodyLimits
) -> bytes | ImageStream:
    """Read the body whole, but within the limit; an array only begins to be read."""
    start = b""
    if kind is not _Kind.JSON:
        async for block in blocks:
            start += block
            if len(start) >= len(NPY_MAGIC):
                break
        if start.startswith(NPY_MAGIC) or (kind is _Kind.NPY and start):
            return await stream_array(start, blocks, length, limits)
    what, hint = "One image", "Send a smaller file"
    if kind is _Kind.JSON:
        what, hint = "The JSON document", "Send multipart/form-data or application/x-npy"
    limits.check_held(length or 0, what, hint)
    # Unlike joining a list of blocks this never holds everything twice.
    body = io.BytesIO()
    body.write(start)
    async for block in blocks:
        limits.hold(body.tell() + len(block), what, hint)
        body.write(block)
    return body.getvalue()


def _parse_json(body: bytes, limits: BodyLimits) -> EncodedImages:
    check_json(body, "Send fewer images in one request.")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _wrong("", f"Invalid JSON: {error}") from None
    texts = _texts_of(document)
    if not texts:
        raise EmptyRequestError("'images' is an empty list.", hint=_KINDS_HINT)
    limits.check_images(len(texts))
    return [decode_base64(text) for text in texts]


def _texts_of(document: Any) -> list[str]:
    """What ``ImagesBody`` says, held to by hand, and up to the first thing that is wrong only.

    Pydantic goes on to the last, and tells of each: minutes and gigabytes for a body of others.
    """
    if not isinstance(document, dict):
        raise _wrong("", "Input should be an object")
    if "images" not in document:
        raise _wrong("images", "Field required")
    texts = document["images"]
    if not isinstance(texts, list):
        raise _wrong("images", "Input should be a valid array")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise _wrong(f"images.{index}", "Input should be a valid string")
    for name in document:
        if name != "images":
            raise _wrong(name[:100], "Extra inputs are not permitted")
    return texts


def _wrong(where: str, what: str) -> MalformedRequestError:
    return MalformedRequestError(
        f"The JSON body is not right at {where or 'the body'}: {what}.",
        hint='Send {"images": ["<base64 or data URL>", ...]}.',
    )

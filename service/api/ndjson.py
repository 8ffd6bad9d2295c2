"""Images as lines of JSON, each as soon as its line is complete."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from starlette.concurrency import run_in_threadpool

from service.api.base64_images import decode_base64
from service.api.limits import BodyLimits, count_json
from service.api.npy import NPY_MAGIC, parse_array
from service.engine.errors import (
    EmptyRequestError,
    ImageDecodeError,
    ImageError,
    InputError,
    RequestTooLargeError,
)
from service.engine.images import Chunk

_KEYS = ("image", "b64")
_HINT = 'Send one JSON text a line: "<base64>", {"image": "<base64>"} or {"b64": "<base64>"}.'
# Parsing this much takes about as long as handing it to another thread and back.
_PARSE_ON_LOOP_BYTES = 2**16
_MAX_VALUES = 100  # a line has two or three; nothing is made of one that has many


async def read_lines(
    blocks: AsyncGenerator[bytes, None], limits: BodyLimits
) -> AsyncGenerator[Chunk, None]:
    """Read images from newline-delimited JSON as the body comes.

    A line is base64 of an image file, or of a .npy array of several images. A line that is
    neither is one bad image. Memory holds one block of the body and the line that is not
    complete yet. Lines without any text are passed over.

    Args:
        blocks: The body, as it comes from the network.
        limits: On the number of images and the bytes of a line.

    Yields:
        Encoded images in order, an error in the place of a bad one; or RGB pixels, uint8
        [N, H, W, 3].

    Raises:
        EmptyRequestError: There is no line.
        RequestTooLargeError: There are too many images, or a line is too long.
    """
    count = 0
    async with aclosing(blocks), aclosing(_lines(blocks, limits)) as lines:
        async for some in lines:
            if sum(map(len, some)) <= _PARSE_ON_LOOP_BYTES:
                chunks = _parse(some, limits)
            else:
                chunks = await run_in_threadpool(_parse, some, limits)
            for chunk in chunks:
                count += len(chunk)
                limits.check_images(count, more_may_come=True)
                yield chunk
    if not count:
        raise EmptyRequestError("The body has no line.", hint=_HINT)


async def _lines(
    blocks: AsyncGenerator[bytes, None], limits: BodyLimits
) -> AsyncGenerator[list[bytes], None]:
    """Complete lines, some at a time."""
    begun = bytearray()
    async for block in blocks:
        end = block.rfind(b"\n")
        size = len(begun) + (len(block) if end < 0 else block.find(b"\n"))
        limits.hold(size, "One line", "Send a smaller file")
        if end < 0:
            begun += block
            continue
        lines = (bytes(begun) + block[:end]).split(b"\n")
        begun[:] = block[end + 1 :]
        yield lines
    yield [bytes(begun)]


def _parse(lines: list[bytes], limits: BodyLimits) -> list[Chunk]:
    """Files that follow each other together; every array by itself."""
    chunks: list[Chunk] = []
    files: list[bytes | ImageError] = []
    for line in lines:
        if not line.strip():
            continue
        image = _decode(line)
        if isinstance(image, ImageError) or not image.startswith(NPY_MAGIC):
            files.append(image)
            continue
        try:
            pixels = parse_array(image, limits)
        except RequestTooLargeError:
            raise
        except InputError as error:
            files.append(ImageDecodeError(error.detail, hint=error.hint))
            continue
        if files:
            chunks.append(files)
            files = []
        chunks.append(pixels)
    return [*chunks, files] if files else chunks


def _decode(line: bytes) -> bytes | ImageError:
    values = count_json(line)
    if values > _MAX_VALUES:
        return ImageDecodeError(
            f"The line has about {values} values of JSON, but an image is one text.", hint=_HINT
        )
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return ImageDecodeError(f"The line is not JSON: {error}.", hint=_HINT)
    if isinstance(value, dict) and len(value) == 1:
        value = next((value[key] for key in _KEYS if key in value), value)
    if not isinstance(value, str):
        return ImageDecodeError("The line is JSON, but not an image.", hint=_HINT)
    return decode_base64(value)

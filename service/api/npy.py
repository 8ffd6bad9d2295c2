"""Images as a NumPy array in the ``.npy`` format: the header first, then the pixels as they come.

Read without ``numpy.load``: no pickle, no zip, no trust in the stated shape.
"""

from __future__ import annotations

import io
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from service.api import held
from service.api.limits import BodyLimits
from service.engine.errors import EmptyRequestError, InvalidTensorError
from service.engine.images import ImageStream, Pixels

NPY_MAGIC = b"\x93NUMPY"

_NPY_HINT = "Send uint8 [N, H, W, 3], [H, W, 3] or grey [N, H, W], as numpy.save writes it."
_FIXED_BYTES = 12  # magic, version, and the length of the rest in its longer form
_MAX_HEADER_BYTES = 16 * 1024  # more than numpy itself reads; a real one has about 120
_MAX_DIMENSIONS = 32  # what every numpy can hold; four are of use
# 128 images of 32 x 32: enough for a batch, and little to hold.
_CHUNK_BYTES = 512 * 1024
_MAX_CHUNK_IMAGES = 256


@dataclass(frozen=True)
class _Layout:
    """What the header says of the pixels after it, checked.

    Attributes:
        shape: As stated: [N, H, W, 3], [H, W, 3] or [N, H, W].
        fortran_order: The first index varies fastest.
        images: (N, H, W, channels); one channel where the array is grey.
        data_at: Where the pixels begin, bytes from the start of the body.
    """

    shape: tuple[int, ...]
    fortran_order: bool
    images: tuple[int, int, int, int]
    data_at: int

    @property
    def data_bytes(self) -> int:
        """Size of all the pixels."""
        return math.prod(self.shape)

    def shape_images(self, data: Pixels) -> Pixels:
        """Give whole images, flat uint8, their form [n, H, W, channels], without a copy.

        In Fortran order it has to be all of them.
        """
        if self.fortran_order:
            return data.reshape(self.shape, order="F").reshape(self.images)
        return data.reshape(-1, *self.images[1:])


def parse_array(body: bytes, limits: BodyLimits) -> Pixels:
    """Read an array whose bytes are all there.

    Returns:
        RGB pixels, uint8 [N, H, W, 3]; not a copy of the body's unless the array is grey.

    Raises:
        EmptyRequestError: It holds no image.
        InvalidTensorError: It is no array of images, or the body is longer or shorter than it.
        RequestTooLargeError: It holds too many images, or too large ones.
    """
    layout = _read_header(body, len(body), limits)
    data = np.frombuffer(body, np.uint8, offset=layout.data_at)
    return _as_rgb(layout.shape_images(data))


async def stream_array(
    start: bytes, blocks: AsyncGenerator[bytes, None], length: int | None, limits: BodyLimits
) -> ImageStream:
    """Read an array's header now, and its images while they are iterated over.

    Args:
        start: What has been read of the body.
        blocks: The rest of it, as it comes from the network.
        length: Bytes of the whole body, if that is stated.
        limits: On the number of images and the size of one.

    Returns:
        The images, uint8 [n, H, W, 3], about half a megabyte at a time. Iterating raises
        InvalidTensorError if the body is longer or shorter than the array.

    Raises:
        EmptyRequestError: The array holds no image.
        InvalidTensorError: It is no array of images, has not the stated length, or is in Fortran
            order and too large to be held whole.
        RequestTooLargeError: It holds too many images, or too large ones.
    """
    while len(start) < min(_header_end(start), _MAX_HEADER_BYTES):
        block = await anext(blocks, b"")
        if not block:
            break
        start += block
    layout = _read_header(start, length, limits)
    count, height, width, _ = layout.images
    limits.check_held(height * width * 3, "One image", "Send smaller images")
    if layout.fortran_order and layout.data_bytes > limits.part_bytes:
        raise InvalidTensorError(
            f"The array is in Fortran order and has {layout.data_bytes} bytes; such an array is"
            f" held whole, and at most {limits.part_bytes} bytes are (max_buffer_bytes).",
            hint="Save numpy.ascontiguousarray(array), or raise max_buffer_bytes.",
        )
    return ImageStream(count, _stream(layout, memoryview(start)[layout.data_at :], blocks))


async def _stream(
    layout: _Layout, start: memoryview, blocks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[Pixels, None]:
    """Cut the images into chunks."""
    count, height, width, channels = layout.images
    fitting = min(max(_CHUNK_BYTES // (height * width * 3), 1), _MAX_CHUNK_IMAGES)
    size = 1 << (fitting.bit_length() - 1)  # a power of two, as batches mostly are
    buffer_images = count if layout.fortran_order else size
    buffer_bytes = buffer_images * height * width * channels
    async with aclosing(_fill(layout, buffer_bytes, start, blocks)) as buffers:
        async for buffer in buffers:
            images = layout.shape_images(buffer)
            for first in range(0, len(images), size):
                yield _as_rgb(images[first : first + size])


async def _fill(
    layout: _Layout, buffer_bytes: int, unread: memoryview, blocks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[Pixels, None]:
    """Copy the pixels into buffers, uint8 [buffer_bytes], the last one as long as what is left.

    The last one is given only when the body has ended in the right place.
    """
    missing = layout.data_bytes  # in the buffers after this one too
    buffer = np.empty(min(buffer_bytes, missing), np.uint8)
    filled = 0
    async with aclosing(blocks):
        while True:
            while unread:
                if filled == missing:
                    raise _not_of_shape(f"more than {layout.data_bytes} bytes", layout.shape)
                if filled == len(buffer):
                    yield buffer
                    missing -= filled
                    buffer = np.empty(min(buffer_bytes, missing), np.uint8)
                    filled = 0
                taken = min(len(unread), len(buffer) - filled)
                held.hold(filled + taken)
                buffer.data[filled : filled + taken] = unread[:taken]
                filled += taken
                unread = unread[taken:]
            unread = memoryview(await anext(blocks, b""))
            if not unread:
                break
    if filled < missing:
        raise _not_of_shape(f"{layout.data_bytes - missing + filled} bytes", layout.shape)
    yield buffer


def _as_rgb(images: Pixels) -> Pixels:
    """Repeat the one channel of grey images, uint8 [n, H, W, 1]; others stay as they are."""
    return images if images.shape[3] == 3 else np.repeat(images, 3, axis=3)


def _header_end(start: bytes) -> int:
    """How many bytes have to be there for the header to be read, as far as that can be told."""
    if len(start) < _FIXED_BYTES or not start.startswith(NPY_MAGIC):
        return _FIXED_BYTES
    if start[6] == 1:  # the version
        return 10 + int.from_bytes(start[8:10], "little")
    return 12 + int.from_bytes(start[8:12], "little")


def _read_header(start: bytes, length: int | None, limits: BodyLimits) -> _Layout:
    """Read the header, and check everything that can be known before the pixels."""
    stream = io.BytesIO(start)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:  # the header is a Python literal; parsing it can fail in many ways
        raise InvalidTensorError(
            f"The body is not a .npy array ({type(error).__name__}).", hint=_NPY_HINT
        ) from None
    if dtype != np.uint8:
        raise InvalidTensorError(f"The array's datatype is {dtype}, not uint8.", hint=_NPY_HINT)
    # In Python's own integers: a product of hostile numbers must not wrap around.
    sizes_are_plain = all(type(size) is int and 0 <= size < 2**31 for size in shape)
    data_bytes = None if length is None else length - stream.tell()
    if not sizes_are_plain or len(shape) > _MAX_DIMENSIONS:
        raise _not_of_shape("bytes" if data_bytes is None else f"{data_bytes} bytes", shape)
    if data_bytes is not None and math.prod(shape) != data_bytes:
        raise _not_of_shape(f"{data_bytes} bytes", shape)
    return _Layout(shape, fortran_order, _images_of(shape, limits), stream.tell())


def _images_of(shape: tuple[int, ...], limits: BodyLimits) -> tuple[int, int, int, int]:
    """Understand an array's shape as (N, H, W, channels)."""
    if len(shape) == 3:
        shape = (1, *shape) if shape[2] == 3 else (*shape, 1)
    elif len(shape) != 4 or shape[3] != 3:
        raise InvalidTensorError(f"The array has shape {list(shape)}.", hint=_NPY_HINT)
    count, height, width, channels = shape
    if not count:
        raise EmptyRequestError("The array holds no image.", hint=_NPY_HINT)
    limits.check_images(count)
    if not height or not width or height * width > limits.image_pixels:
        raise InvalidTensorError(
            f"Images of {height} x {width} pixels can't be used.",
            hint=f"Send at least 1 and at most {limits.image_pixels} pixels an image.",
        )
    return count, height, width, channels


def _not_of_shape(found: str, shape: tuple[int, ...]) -> InvalidTensorError:
    return InvalidTensorError(
        f"The {found} of data are not an array of shape {shape!s:.100}.", hint=_NPY_HINT
    )

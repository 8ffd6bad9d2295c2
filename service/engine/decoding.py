"""Images of a request to the pixels of a model's size: in threads, a turn at a time.

Decoders free the GIL, so that threads decode side by side and beside the runs. A single tiny
picture is decoded where it is: that takes less time than handing it to a thread and back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.engine.decode import DEFAULT_MAX_PIXELS, DecodeOptions, decode_into, fit_image
from service.engine.errors import ImageError
from service.engine.images import Chunk, Pixels
from service.engine.jpeg import exact_decoder, plain_size
from service.engine.screening import has_packed_chunks
from service.engine.spans import SPANS
from service.metadata import Input

# Long beside handing a turn over, short beside what a client notices.
_TURN_S = 0.002
# The worst file within both takes about a millisecond, a usual one some ten microseconds.
_TINY_BYTES, _TINY_PIXELS = 8192, 64 * 64
_PNG_MAGIC, _PNG_SIZE = b"\x89PNG\r\n\x1a\n", slice(16, 24)
_PNG_HEADER, _PNG_HEADER_NAME = slice(12, 16), b"IHDR"


@dataclass(frozen=True)
class DecodingOptions:
    """Where and how images are decoded.

    Attributes:
        threads: How many decode at once.
        max_image_pixels: Largest width times height that is decoded at all.
        decode: What may be done for speed.
    """

    threads: int
    max_image_pixels: int = DEFAULT_MAX_PIXELS
    decode: DecodeOptions = DecodeOptions()  # noqa: RUF009, it is frozen


class Decoding:
    """The threads that decode. A thread works for one request only for a moment at a time."""

    def __init__(self, options: DecodingOptions) -> None:
        """Make the pool."""
        self.pool = ThreadPoolExecutor(options.threads, "decode")
        self._options = options
        exact_decoder()  # compares the decoders once: not while the first request waits

    async def pixels(self, images: Chunk, size: Input) -> tuple[Pixels, dict[int, ImageError]]:
        """Bring images to a model's size.

        Args:
            images: N encoded images, or pixels uint8 [N, H, W, 3] of any size.
            size: What the model takes.

        Returns:
            uint8 [M, height, width, 3] of the M good ones, and the errors of the others by index.
        """
        shape = (size.height, size.width)
        errors: dict[int, ImageError] = {}
        if isinstance(images, np.ndarray) and images.shape[1:3] == shape:
            return images, errors
        spans, began_s = SPANS.get(), time.perf_counter()
        pixels = np.empty((len(images), *shape, 3), np.uint8)

        def fill(index: int) -> None:
            try:
                self._decode(images[index], size, pixels[index])
            except ImageError as error:
                # Where it was raised would keep the file, and all that was made of it.
                error.__traceback__ = error.__cause__ = error.__context__ = None
                errors[index] = error

        if len(images) == 1 and _is_tiny(images[0]):
            fill(0)
        else:
            await self._in_turns(fill, len(images))
        if spans is not None:
            spans.decoded(began_s, time.perf_counter(), len(images))
        return np.delete(pixels, sorted(errors), axis=0) if errors else pixels, errors

    def _decode(self, image: bytes | ImageError | Pixels, size: Input, out: Pixels) -> None:
        if isinstance(image, ImageError):
            raise image
        if isinstance(image, np.ndarray):
            out[...] = fit_image(image, size.height, size.width, size.resize)
        else:
            options = self._options
            decode_into(image, out, size.resize, options.max_image_pixels, options.decode)

    async def _in_turns(self, fill: Callable[[int], None], count: int) -> None:
        """Call ``fill`` for every index below ``count`` in the threads.

        After each turn a request goes to the end of the line, so that another request's image is
        behind a turn of this one and not behind all of it.
        """
        loop = asyncio.get_running_loop()
        indices = iter(range(count))  # the lanes share it; taking the next one is atomic

        def take_a_turn() -> bool:
            until_s = time.perf_counter() + _TURN_S
            for index in indices:
                fill(index)
                if time.perf_counter() >= until_s:
                    return True
            return False

        async def lane() -> None:
            while await loop.run_in_executor(self.pool, take_a_turn):
                pass

        lanes = min(count, self._options.threads)
        if lanes == 1:
            await lane()
        else:
            await asyncio.gather(*(lane() for _ in range(lanes)))

    def close(self) -> None:
        """Let the threads end once they are idle."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def _is_tiny(image: bytes | ImageError | Pixels) -> bool:
    """A picture that says by its first bytes that decoding it takes no time worth a thread."""
    if not isinstance(image, bytes) or len(image) > _TINY_BYTES:
        return False
    if image.startswith(_PNG_MAGIC):
        # The decoder believes the last header that there is, wherever it stands.
        if image[_PNG_HEADER] != _PNG_HEADER_NAME or image.count(_PNG_HEADER_NAME) > 1:
            return False
        if has_packed_chunks(image):
            return False
        width, height = image[_PNG_SIZE][:4], image[_PNG_SIZE][4:]
        return int.from_bytes(width) * int.from_bytes(height) <= _TINY_PIXELS
    found = plain_size(image)
    return found is not None and found[0] * found[1] <= _TINY_PIXELS

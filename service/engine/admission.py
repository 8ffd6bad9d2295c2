"""What the service takes on at once: images and memory, counted from before they are decoded."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass

from service.engine.errors import QueueFullError, RequestTooLargeError

# So many times what the first in line needs may overtake it: small requests go on being answered
# while a large one waits, and it waits for a bounded time.
_OVERTAKING = 4


@dataclass(frozen=True)
class AdmissionLimits:
    """Bounds over all requests that are not answered yet.

    Attributes:
        images: Images that are being decoded, wait, or run.
        pixel_bytes: Memory for their decoded pixels.
    """

    images: int
    pixel_bytes: int


class Admission:
    """Lets images in, or refuses them before any work is done. Used on the event loop only.

    The images of a large request come in by and by: the first of them are refused when there is no
    room, the others wait for it in line. New requests that fit into the room which is too small for
    the first in line overtake it, up to a few times its own need; then they are refused until it is
    in. Images in work are always done some time, so this can't lock up.

    Attributes:
        images: Images in work now.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        """Start empty."""
        self.limits = limits
        self.images = 0
        self._pixel_bytes = 0
        self._in_line: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self._overtaken = 0.0  # by how much since the first in line is the first

    def enter(self, images: int, pixel_bytes: int) -> None:
        """Let a request's first images in; ``leave`` must follow.

        Args:
            images: At most ``limits.images``.
            pixel_bytes: Size of their decoded pixels.

        Raises:
            RequestTooLargeError: They alone need more memory than there is for all.
            QueueFullError: There is no room for them now.
        """
        limits = self.limits
        if pixel_bytes > limits.pixel_bytes:
            raise RequestTooLargeError(
                f"The pixels of {images} images take {pixel_bytes} bytes at the model's size; the"
                f" limit is {limits.pixel_bytes}.",
                hint="Raise max_pixel_bytes.",
            )
        if self.images + images > limits.images:
            raise QueueFullError(
                f"{self.images} images are in work; the limit is {limits.images}.",
                hint="Retry after a second, or raise max_queue_size.",
            )
        if self._pixel_bytes + pixel_bytes > limits.pixel_bytes:
            raise QueueFullError(
                f"Images that are in work take {self._pixel_bytes} bytes; the limit is"
                f" {limits.pixel_bytes}.",
                hint="Retry after a second, or raise max_pixel_bytes.",
            )
        if self._in_line:
            self._overtake(images, pixel_bytes)
        self.images += images
        self._pixel_bytes += pixel_bytes

    async def enter_later(self, images: int, pixel_bytes: int) -> None:
        """Let more images of a request in as soon as there is room; ``leave`` must follow."""
        if not self._in_line and self._fits(images, pixel_bytes):
            self.images += images
            self._pixel_bytes += pixel_bytes
            return
        place = asyncio.get_running_loop().create_future()
        self._in_line.append((images, pixel_bytes, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave(images, pixel_bytes)
            else:
                if self._in_line and self._in_line[0][2] is place:
                    self._overtaken = 0.0
                with contextlib.suppress(ValueError):  # it was passed over in the meantime
                    self._in_line.remove((images, pixel_bytes, place))
                self._let_in()
            raise

    def leave(self, images: int, pixel_bytes: int) -> None:
        """Count images out again."""
        self.images -= images
        self._pixel_bytes -= pixel_bytes
        self._let_in()

    def _let_in(self) -> None:
        while self._in_line and self._fits(*self._in_line[0][:2]):
            images, pixel_bytes, place = self._in_line.popleft()
            self._overtaken = 0.0
            if place.done():
                continue
            self.images += images
            self._pixel_bytes += pixel_bytes
            place.set_result(None)

    def _overtake(self, images: int, pixel_bytes: int) -> None:
        """Let a new request pass the first in line, unless too much has passed it already."""
        overtaken = self._overtaken + self._share(images, pixel_bytes)
        if overtaken > _OVERTAKING * self._share(*self._in_line[0][:2]):
            raise QueueFullError(
                f"Images of requests that came before wait for room; {self.images} are in work.",
                hint="Retry after a second, or raise max_queue_size or max_pixel_bytes.",
            )
        self._overtaken = overtaken

    def _share(self, images: int, pixel_bytes: int) -> float:
        """Of all that there is room for, by what there is less of."""
        return max(images / self.limits.images, pixel_bytes / self.limits.pixel_bytes)

    def _fits(self, images: int, pixel_bytes: int) -> bool:
        return (
            self.images + images <= self.limits.images
            and self._pixel_bytes + pixel_bytes <= self.limits.pixel_bytes
        )

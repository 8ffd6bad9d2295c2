"""What the service takes on at once: images and memory, counted from before they are decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from service.engine.errors import QueueFullError, RequestTooLargeError


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
    """Lets requests in, or refuses them before any work is done. Used on the event loop only."""

    def __init__(self, limits: AdmissionLimits) -> None:
        """Start empty."""
        self._limits = limits
        self._images = 0
        self._pixel_bytes = 0

    @contextlib.contextmanager
    def admit(self, images: int, pixel_bytes: int) -> Iterator[None]:
        """Count a request in for as long as the block runs.

        Args:
            images: Images of the request.
            pixel_bytes: Size of their decoded pixels.

        Raises:
            RequestTooLargeError: The request alone needs more memory than there is for all.
            QueueFullError: There is no room for it now.
        """
        self._check(images, pixel_bytes)
        self._images += images
        self._pixel_bytes += pixel_bytes
        try:
            yield
        finally:
            self._images -= images
            self._pixel_bytes -= pixel_bytes

    def _check(self, images: int, pixel_bytes: int) -> None:
        limits = self._limits
        if pixel_bytes > limits.pixel_bytes:
            raise RequestTooLargeError(
                f"The pixels of {images} images take {pixel_bytes} bytes at the model's size; the"
                f" limit is {limits.pixel_bytes}.",
                hint="Split the images over several requests, or raise max_pixel_bytes.",
            )
        # An empty service takes a request of any number, else one over the limit could never run.
        if self._images and self._images + images > limits.images:
            raise QueueFullError(
                f"{self._images} images are in work; the limit is {limits.images}.",
                hint="Retry after a second, or raise max_queue_size.",
            )
        if self._pixel_bytes + pixel_bytes > limits.pixel_bytes:
            raise QueueFullError(
                f"Images that are in work take {self._pixel_bytes} bytes; the limit is"
                f" {limits.pixel_bytes}.",
                hint="Retry after a second, or raise max_pixel_bytes.",
            )

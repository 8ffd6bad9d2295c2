"""How many images a request had, for whoever has to pay for them."""

from __future__ import annotations

from contextvars import ContextVar


class ImageCount:
    """The images of one request that were let in, whatever became of them.

    Attributes:
        total: So far.
    """

    __slots__ = ("total",)

    def __init__(self) -> None:
        """Begin with none."""
        self.total = 0


_current: ContextVar[ImageCount | None] = ContextVar("image_count", default=None)


def count_images() -> ImageCount:
    """Count the images of the request that this task works on."""
    count = ImageCount()
    _current.set(count)
    return count


def add_images(number: int) -> None:
    """So many more; costs next to nothing where nobody counts."""
    count = _current.get()
    if count is not None:
        count.total += number

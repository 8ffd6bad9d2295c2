"""Put images into requests, have several in work at once, and give results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from service.client.errors import ImageError
from service.client.images import Entry, ImageLike, Pixels, load_entry

T = TypeVar("T")

MAX_GROUP_BYTES = 4 * 2**20


class Grouper:
    """Collects images until a request is full: of one kind, and so many of so many bytes.

    Arrays of one shape go together as one array, files as one form.
    """

    def __init__(self, max_images: int, max_bytes: int = MAX_GROUP_BYTES) -> None:
        """Start empty."""
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._entries: list[Entry] = []
        self._bytes = 0
        self._kind: tuple[int, ...] | None = None  # shape of arrays; () for files

    def add(self, entry: Entry) -> list[list[Entry]]:
        """Take one more; returns what is complete with it."""
        complete = []
        content = entry.content
        if not isinstance(content, ImageError):
            size = len(content.data if isinstance(content, Pixels) else content)
            kind = content.shape if isinstance(content, Pixels) else ()
            too_large = self._bytes and self._bytes + size > self._max_bytes
            if too_large or self._kind not in (None, kind):
                complete.append(self.rest())
            self._kind = kind
            self._bytes += size
        self._entries.append(entry)
        if len(self._entries) == self._max_images:
            complete.append(self.rest())
        return complete

    def rest(self) -> list[Entry]:
        """What is there, complete or not."""
        entries, self._entries = self._entries, []
        self._bytes, self._kind = 0, None
        return entries


def group(images: Iterable[ImageLike], max_images: int) -> Iterator[list[Entry]]:
    """Load images, and put them into groups."""
    grouper = Grouper(max_images)
    for index, image in enumerate(images):
        yield from grouper.add(load_entry(image, index))
    if rest := grouper.rest():
        yield rest


def in_order(
    groups: Iterable[list[Entry]],
    begin: Callable[[list[Entry]], Future[Sequence[T]]],
    in_flight: int,
) -> Iterator[T]:
    """Begin with groups while others are in work, never more than ``in_flight`` at once.

    Returns:
        Their results, in order. Iterating raises the first error of a group.
    """
    work: deque[Future[Sequence[T]]] = deque()
    for each in groups:
        work.append(begin(each))
        while work and (len(work) >= in_flight or work[0].done()):
            yield from work.popleft().result()
    while work:
        yield from work.popleft().result()

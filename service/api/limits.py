"""How large a request may be, and what it is told when it is larger."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Message, Receive

from service.api import held
from service.engine.errors import RequestTooLargeError

# As Python's objects, numbers and lists take many times the memory of their text: so many of them
# are half a gigabyte, for a moment. 40 pictures of 224 x 224 pixels have 8 million.
_MAX_JSON_VALUES = 8_000_000
_VALUES_OF_AN_OBJECT = 4  # it takes as much memory


@dataclass(frozen=True)
class BodyLimits:
    """Limits on what one request may ask for.

    Attributes:
        images: Images in the request.
        image_pixels: Width times height of one image.
        part_bytes: The largest thing that is held in memory as one: an image, a part of a form, a
            JSON document.
    """

    images: int
    image_pixels: int
    part_bytes: int

    def check_images(self, count: int, *, more_may_come: bool = False) -> None:
        """Refuse too many images.

        Raises:
            RequestTooLargeError: There are more than ``images``.
        """
        if count > self.images:
            found = f"{count} images{' or more' if more_may_come else ''}"
            raise RequestTooLargeError(
                f"The request has {found}; the limit is {self.images}.",
                hint="Split it over several requests, or raise max_images.",
            )

    def check_held(self, size_bytes: int, what: str, hint: str) -> None:
        """Refuse to hold so much in memory, before any of it is there.

        Args:
            size_bytes: As far as it is known.
            what: "One image", for example.
            hint: What to do besides raising the limit, as the beginning of a sentence.

        Raises:
            RequestTooLargeError: It is more than ``part_bytes``.
            QueueFullError: Other requests hold so much that there is no room for it.
        """
        self._check_part(size_bytes, what, hint)
        held.check_room(size_bytes)

    def hold(self, size_bytes: int, what: str, hint: str) -> None:
        """Count what is held in memory, as it grows; refuses as ``check_held`` does."""
        self._check_part(size_bytes, what, hint)
        held.hold(size_bytes)

    def _check_part(self, size_bytes: int, what: str, hint: str) -> None:
        if size_bytes > self.part_bytes:
            raise RequestTooLargeError(
                f"{what} has {size_bytes} bytes or more; at most {self.part_bytes} are held at"
                " once (max_buffer_bytes).",
                hint=f"{hint}, or raise max_buffer_bytes.",
            )


def count_json(text: bytes | bytearray) -> int:
    """About how many values a JSON document has, before anything is made of it."""
    return text.count(b",") + text.count(b"[") + _VALUES_OF_AN_OBJECT * text.count(b"{")


def check_json(text: bytes | bytearray, hint: str) -> None:
    """Refuse a JSON document that would take too much memory, before anything is made of it.

    Args:
        text: The document.
        hint: What to do instead.

    Raises:
        RequestTooLargeError: It has too many numbers, lists and objects.
    """
    values = count_json(text)
    if values > _MAX_JSON_VALUES:
        raise RequestTooLargeError(
            f"The JSON has about {values} numbers and lists; the limit is {_MAX_JSON_VALUES}.",
            hint=hint,
        )


def limit_body(stated: bytes | None, receive: Receive, max_body_bytes: int) -> Receive:
    """Refuse a body over a limit: by its stated length before it is read, else while it is.

    The error is raised where a route reads the body, so it becomes an answer like any other.

    Args:
        stated: The request's Content-Length; the HTTP parser has made sure that it is a number,
            and ends the body there.
        receive: Of ASGI.
        max_body_bytes: The limit.

    Returns:
        What to read the body with; raises RequestTooLargeError.
    """
    stated_bytes = int(stated or 0)
    if 0 < stated_bytes <= max_body_bytes:
        return receive
    received = 0

    def check(size_bytes: int) -> None:
        if size_bytes > max_body_bytes:
            raise RequestTooLargeError(
                f"The body has {size_bytes} bytes or more; the limit is {max_body_bytes}.",
                hint="Send fewer or smaller images in one request, or raise max_body_bytes.",
            )

    async def receive_within_limit() -> Message:
        nonlocal received
        check(stated_bytes)
        message = await receive()
        received += len(message.get("body", b""))
        check(received)
        return message

    return receive_within_limit

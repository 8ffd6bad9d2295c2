"""Files of a ``multipart/form-data`` body, each as soon as it is complete."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.api.limits import BodyLimits
from service.engine.errors import EmptyRequestError, MalformedRequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_HEADERS = 16  # of a part; browsers and libraries send two or three
_MAX_HEADER_BYTES = 8 * 1024  # of all headers of a part together
_MAX_CHUNK_PARTS = 64

# What a part may say of its transfer encoding: that there is none (RFC 2045, section 6).
_PLAIN_ENCODINGS = (b"", b"identity", b"binary", b"8bit", b"7bit")

_FORM_HINT = "Let your HTTP library write the body and its boundary."
_FILE_HINT = "Send at least one image as a file (with a filename)."


def read_parts(
    blocks: AsyncGenerator[bytes, None], content_type: bytes, limits: BodyLimits
) -> AsyncGenerator[list[bytes], None]:
    """Read the files of a form as the body comes.

    Memory holds one block of the body and the part that is not complete yet.

    Args:
        blocks: The body, as it comes from the network.
        content_type: The request's header, which names the boundary.
        limits: On the number of parts and the bytes of one.

    Returns:
        The files in order, 1 to 64 at a time. Iterating raises EmptyRequestError,
        MalformedRequestError or RequestTooLargeError as soon as the body shows itself wrong.

    Raises:
        MalformedRequestError: The header names no boundary that can be used.
    """
    _, options = parse_options_header(content_type)
    return _read_parts(blocks, _Form(options.get(b"boundary", b""), limits))


async def _read_parts(
    blocks: AsyncGenerator[bytes, None], form: _Form
) -> AsyncGenerator[list[bytes], None]:
    try:
        async with aclosing(blocks):
            async for block in blocks:
                complete = form.feed(block)
                for first in range(0, len(complete), _MAX_CHUNK_PARTS):
                    yield complete[first : first + _MAX_CHUNK_PARTS]
        form.finish()
    finally:
        form.close()


class _Form:
    """Follows the parser through the parts of one body."""

    def __init__(self, boundary: bytes, limits: BodyLimits) -> None:
        """Start before the first part."""
        if not boundary:
            raise _malformed("the content type names no boundary")
        self._limits = limits
        self._complete: list[bytes] = []
        self._parts = 0  # that have begun to have content
        self._begun = self._ended = False
        self._on_part_begin()
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(
                boundary,
                callbacks,
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _malformed(str(error)) from None

    def feed(self, block: bytes) -> list[bytes]:
        """Parse a block of the body, and give the parts that it completes."""
        if not self._begun:
            # What the parser lets stand before the first boundary would depend on where the
            # network splits the body. Empty lines may stand there, text not.
            block = block.lstrip(b"\r\n")
            self._begun = bool(block)
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise _malformed(str(error)) from None
        complete, self._complete = self._complete, []
        return complete

    def finish(self) -> None:
        """Make sure that the body was a whole form, and had a file."""
        if not self._begun:
            raise EmptyRequestError("The body is empty.", hint=_FILE_HINT)
        # The parser takes a form that ends anywhere; what was cut off must not go unnoticed.
        if not self._ended:
            raise MalformedRequestError(
                "The multipart body has no closing boundary: it was cut short.", hint=_FORM_HINT
            )
        if not self._parts:
            raise EmptyRequestError("The form has no file.", hint=_FILE_HINT)

    def close(self) -> None:
        """Let go of the parser, which refers to this: the part that was begun would stay.

        Until the next collection of garbage, that is, which may be many requests away.
        """
        del self._parser, self._content

    def _on_part_begin(self) -> None:
        self._disposition = self._transfer_encoding = b""
        self._field = self._value = b""
        self._header_bytes = 0
        self._content = io.BytesIO()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header_bytes(end - start)
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header_bytes(end - start)
        self._value += data[start:end]

    def _count_header_bytes(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise _malformed(f"the headers of a part have more than {_MAX_HEADER_BYTES} bytes")

    def _on_header_end(self) -> None:
        field = self._field.lower()
        if field == b"content-disposition":
            self._disposition = self._value
        elif field == b"content-transfer-encoding":
            self._transfer_encoding = self._value.strip().lower()
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed("a part has no Content-Disposition with a name")
        name = options[b"name"].decode("utf-8", "replace")
        if b"filename" not in options:
            raise MalformedRequestError(
                f"Form field {name!r} is text, not a file.",
                hint="Send images as files (with a filename) and parameters in the query.",
            )
        if self._transfer_encoding not in _PLAIN_ENCODINGS:
            encoding = self._transfer_encoding.decode("latin-1")
            raise MalformedRequestError(
                f"Form field {name!r} has the content transfer encoding {encoding!r}.",
                hint="Send the image's bytes as they are, without Content-Transfer-Encoding.",
            )
        self._parts += 1
        self._limits.check_images(self._parts, more_may_come=True)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        size = self._content.tell() + end - start
        self._limits.hold(size, "One part of the form", "Send a smaller file")
        self._content.write(data[start:end])

    def _on_part_end(self) -> None:
        # Hands over what has been written without a copy.
        self._complete.append(self._content.getvalue())

    def _on_end(self) -> None:
        self._ended = True


def _malformed(reason: str) -> MalformedRequestError:
    return MalformedRequestError(f"The multipart body can't be read: {reason}.", hint=_FORM_HINT)

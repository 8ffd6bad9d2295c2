"""gzip and deflate, of request bodies and of replies to inferences (RFC 9110, 8.4).

Only replies to inferences are compressed: clients of the protocol inflate no others.
"""

from __future__ import annotations

import functools
import re
import zlib

from service.api import held
from service.api.limits import BodyLimits
from service.engine.errors import MalformedRequestError, UnsupportedMediaError

# Window bits as zlib wants them, which tell the formats apart; "deflate" is zlib's (RFC 1950).
_FORMATS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
REPLIES = ("gzip", "deflate")
_LEVEL = 1  # scores hardly get smaller with more
_READ_BYTES, _WRITE_BYTES = 2**16, 2**20
_REFUSED = re.compile(r"q=0(\.0*)?")


def check_coding(coding: str) -> None:
    """Refuse a content coding that can't be undone.

    Raises:
        UnsupportedMediaError: It is neither gzip nor deflate.
    """
    if coding not in _FORMATS:
        raise UnsupportedMediaError(
            f"Content encoding {coding[:50]!r} is not supported.",
            hint="Compress with gzip or deflate, or send the body as it is.",
        )


def inflate(body: bytes | bytearray, coding: str, limits: BodyLimits) -> bytearray:
    """Undo a body's compression, within the limit on what is held. Frees the GIL.

    Args:
        body: One compressed stream.
        coding: That ``check_coding`` has let through.
        limits: On the result.

    Raises:
        MalformedRequestError: The body is not compressed so, cut short, or goes on behind its end.
        RequestTooLargeError: The result is too large; no more than the limit was ever held.
    """
    inflater = zlib.decompressobj(_FORMATS[coding])
    inflated, compressed, read = bytearray(), memoryview(body), 0
    try:
        while read < len(compressed) and not inflater.eof:
            some: memoryview | bytes = compressed[read : read + _READ_BYTES]
            read += len(some)
            while some and not inflater.eof:
                inflated += inflater.decompress(some, _WRITE_BYTES)
                limits.hold(
                    len(inflated),
                    "The inflated body",
                    "Send fewer images in one request",
                )
                held.hold(len(inflated) + len(body))
                some = inflater.unconsumed_tail
        inflated += inflater.flush()
    except zlib.error as error:
        raise _broken(f"The body is no {coding} stream: {error}.") from None
    if not inflater.eof:
        raise _broken(f"The {coding} stream is cut short.")
    if inflater.unused_data or read < len(compressed):
        raise _broken(f"The body goes on behind the end of the {coding} stream.")
    return inflated


@functools.lru_cache(maxsize=64)
def accepted_coding(accept_encoding: bytes) -> str | None:
    """The coding of a reply for an ``Accept-Encoding`` header; None: as it is."""
    for entry in accept_encoding.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        if name in REPLIES and not any(map(_REFUSED.fullmatch, parameters)):
            return name
    return None


def deflate(body: bytes, coding: str) -> bytes:
    """Compress a reply. Frees the GIL."""
    return zlib.compress(body, _LEVEL, _FORMATS[coding])


def _broken(sentence: str) -> MalformedRequestError:
    return MalformedRequestError(sentence, hint="Compress the whole body once, or not at all.")

"""A file that knows its own SHA-256: whoever changes a byte of it is found out.

The metadata inside the file holds the digest of the whole file, weights and metadata alike, taken
with the digest's own 64 digits as zeros. It needs no ONNX parser, whatever wrote the file and in
whatever order. It is no signature: who changes a file on purpose can compute it anew.
"""

from __future__ import annotations

import hashlib
from typing import Literal

BLANK_DIGEST = "0" * 64
DigestState = Literal["matches", "differs", "absent"]


def seal(model: bytes) -> bytes:
    """Put the digest in place of the blank one.

    Args:
        model: A file with ``"file_digest":"000..."`` in its metadata, just once.

    Raises:
        ValueError: There is no such place, or more than one.
    """
    before, after = _around(model, BLANK_DIGEST)
    return b"".join((before, hashlib.sha256(model).hexdigest().encode(), after))


def check_digest(model: bytes, digest: str | None) -> DigestState:
    """Compare a file with the digest that its metadata states."""
    if digest is None:
        return "absent"
    try:
        before, after = _around(model, digest)
    except ValueError:
        return "differs"
    found = hashlib.sha256(before)
    found.update(BLANK_DIGEST.encode())
    found.update(after)
    return "matches" if found.hexdigest() == digest else "differs"


def _around(model: bytes, digest: str) -> tuple[memoryview, memoryview]:
    """What stands before and behind the digits."""
    key = b'"file_digest":"'
    place = key + digest.encode() + b'"'
    start = model.find(place)
    if start < 0 or model.find(place, start + 1) >= 0:
        raise ValueError("the digest does not stand in the file just once")
    view, first = memoryview(model), start + len(key)
    return view[:first], view[first + len(digest) :]

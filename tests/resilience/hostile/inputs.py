"""One bad input: what is sent, what may come back, and in which time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CLASSIFY = "/v1/classify"
HOST = b"Host: hostile\r\n"
# In the place of a status: the connection ends without an answer.
HUNG_UP = 0

BAD_FILE = frozenset({422})  # one image, and it can't be used
BROKEN = frozenset({400})  # the body or the request is not what it says it is
TOO_LARGE = frozenset({413})
# What was damaged may be pixels, and then it is a good file of another picture.
PIXELS_OR_FILE = frozenset({200, 422})
HARMLESS = frozenset({200})  # odd, but there is one right way to understand it


@dataclass(frozen=True)
class Pause:
    """Nothing is sent for so long."""

    seconds: float


@dataclass(frozen=True)
class Drip:
    """The same bytes again and again, until the server answers or hangs up."""

    block: bytes
    every_s: float
    times: int


@dataclass(frozen=True)
class EndOfInput:
    """The client says that it sends no more, and goes on listening."""


Step = bytes | Pause | Drip | EndOfInput


@dataclass(frozen=True)
class Input:
    """What a hostile client does on one connection.

    Attributes:
        kind: Its line in the table.
        name: Its own name; no two are the same.
        why: Why the expected statuses are the right ones.
        expected: Statuses, one of which every answer has; ``HUNG_UP`` for no answer at all.
        script: What is sent and when.
        answers: How many there must be. Any more would answer a request that was smuggled in.
        bodiless: The answers have no body (HEAD).
        limit_s: Time for all of it, on a busy machine. Nothing may hang.
        slow: It is the waiting that attacks; it runs beside all others.
    """

    kind: str
    name: str
    why: str
    expected: frozenset[int]
    script: tuple[Step, ...]
    answers: int = 1
    bodiless: bool = False
    limit_s: float = 40.0
    slow: bool = False


def head(
    target: str | bytes = CLASSIFY, *headers: bytes, method: bytes = b"POST", host: bytes = HOST
) -> bytes:
    """The head of a request; each header without its line's end."""
    path = target if isinstance(target, bytes) else target.encode("latin-1")
    lines = b"".join(header + b"\r\n" for header in headers)
    return method + b" " + path + b" HTTP/1.1\r\n" + host + lines + b"\r\n"


def sized(
    body: bytes, content_type: str = "", target: str = CLASSIFY, headers: Iterable[bytes] = ()
) -> tuple[Step, ...]:
    """A whole POST with its length stated."""
    kind = [b"Content-Type: " + content_type.encode("latin-1")] if content_type else []
    return head(target, *kind, *headers, b"Content-Length: %d" % len(body)), body


def post(
    kind: str,
    name: str,
    why: str,
    body: bytes,
    content_type: str = "",
    expected: frozenset[int] = BROKEN,
    *,
    target: str = CLASSIFY,
    headers: Iterable[bytes] = (),
) -> Input:
    """An input that is all in its body."""
    return Input(kind, name, why, expected, sized(body, content_type, target, headers))


def file(kind: str, name: str, why: str, data: bytes, expected: frozenset[int] = BAD_FILE) -> Input:
    """An input that is one image file."""
    return post(kind, name, why, data, "application/octet-stream", expected)


def raw(
    kind: str,
    name: str,
    why: str,
    *script: Step,
    expected: frozenset[int] = BROKEN,
    answers: int = 1,
    bodiless: bool = False,
) -> Input:
    """An input that is written byte by byte."""
    return Input(kind, name, why, expected, script, answers, bodiless)


def chunks(*blocks: bytes) -> bytes:
    """A body in chunks, with the one that ends it."""
    return b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks) + b"0\r\n\r\n"

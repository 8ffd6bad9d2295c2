"""The bytes of an inference: read whole, inflated, and split into JSON and tensors.

Source: Triton's binary tensor data extension of the Open Inference Protocol.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from service.api.content_coding import read_coding
from service.api.limits import BodyLimits
from service.api.oip.compression import check_coding, inflate
from service.engine.errors import EmptyRequestError, MalformedRequestError

JSON_BYTES = "Inference-Header-Content-Length"
_NUMBER = re.compile(rb"[0-9]{1,10}")  # int() would take "+5", "1_0" and " 5"
_WHAT, _SMALLER_HINT = "The body", "Send fewer images in one request"


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's headers say about its body and its reply.

    Attributes:
        coding: The compression of the body, in lower case; empty: none.
        length: Bytes of the body as it is sent, if that is stated.
        json_bytes: How many bytes of the inflated body are JSON; None: all.
        accept_encoding: Which compression the client takes.
    """

    coding: str
    length: int | None
    json_bytes: int | None
    accept_encoding: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """An inflated body in its two parts.

    Attributes:
        json: The JSON document; None in a raw request, which is nothing but its tensor.
        tensors: The bytes of all binary tensors, one behind the other.
    """

    json: bytes | bytearray | None
    tensors: memoryview


def read_head(scope: Scope) -> Head:
    """Pick the headers that matter, in one pass over all of them.

    Raises:
        MalformedRequestError: The length of the JSON part is no number, or is stated twice.
        UnsupportedMediaError: The body is compressed in a way that can't be undone.
    """
    codings: list[bytes] = []
    accepted: list[bytes] = []
    lengths: list[bytes] = []
    length: int | None = None
    for name, value in scope["headers"]:  # ASGI gives the names in lower case
        if name == b"content-length":
            length = int(value)  # the HTTP parser has made sure that this is a number
        elif name == b"inference-header-content-length":
            lengths.append(value)
        elif name == b"content-encoding":
            codings.append(value)
        elif name == b"accept-encoding":
            accepted.append(value)
    coding = read_coding(codings)
    if coding:
        check_coding(coding)
    return Head(coding, length, _json_bytes(lengths), b",".join(accepted))


@asynccontextmanager
async def reading_body(request: Request, head: Head, limits: BodyLimits) -> AsyncIterator[Body]:
    """Read a request's body; at most ``limits.part_bytes`` are held, inflated or not.

    What is to be made of the body is made inside: the next one that is compressed is inflated when
    this one is left, so that few that are inflated wait for their JSON to be read.

    Raises:
        EmptyRequestError: There is none.
        MalformedRequestError: It is not compressed as it says, or has less bytes than its JSON
            part is said to have.
        RequestTooLargeError: It is too large.
        QueueFullError: The bodies of others take all the room.
        ClientDisconnect: The client hung up before its end.
    """
    limits.check_held(head.length or 0, _WHAT, _SMALLER_HINT)
    body = await _read_whole(request, limits)
    if not head.coding:
        yield split(body, head.json_bytes)
        return
    inflations: asyncio.Semaphore = request.app.state.inflations
    async with inflations:
        body = await run_in_threadpool(inflate, body, head.coding, limits)
        yield split(body, head.json_bytes)


def split(body: bytes | bytearray, json_bytes: int | None) -> Body:
    """Split an inflated body.

    Args:
        body: All of it.
        json_bytes: How many bytes of it are JSON; None: all.

    Raises:
        EmptyRequestError: There is no JSON where there has to be.
        MalformedRequestError: There are less bytes than that.
    """
    if json_bytes == 0:
        return Body(None, memoryview(body))
    if not body:
        raise EmptyRequestError("The body is empty.", hint='Send {"inputs": [...]}.')
    if json_bytes is None or json_bytes == len(body):
        return Body(body, memoryview(b""))
    if json_bytes > len(body):
        raise MalformedRequestError(
            f"{JSON_BYTES} is {json_bytes}, but the body has {len(body)} bytes.",
            hint="It is the length of the JSON part of the body, before any compression.",
        )
    return Body(body[:json_bytes], memoryview(body)[json_bytes:])


async def _read_whole(request: Request, limits: BodyLimits) -> bytes | bytearray:
    message = await request.receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return bytes(message.get("body", b""))
    # Grown in place: a list of blocks and what they are joined to would be twice the memory.
    body = bytearray()
    while message["type"] == "http.request":
        block = message.get("body", b"")
        limits.hold(len(body) + len(block), _WHAT, _SMALLER_HINT)
        body += block
        if not message.get("more_body", False):
            return body
        message = await request.receive()
    raise ClientDisconnect


def _json_bytes(values: list[bytes]) -> int | None:
    if not values:
        return None
    if len(values) > 1 or not _NUMBER.fullmatch(values[0]):
        found = b", ".join(values).decode("latin-1")[:50]
        raise MalformedRequestError(
            f"{JSON_BYTES} is {found!r}.",
            hint="Send it once, as the number of bytes of the JSON part of the body.",
        )
    return int(values[0])

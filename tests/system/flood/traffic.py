"""Clients of every kind, all at once."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tests.system.flood.ledger import Ledger, Request
from tests.system.flood.pictures import BAD, FORMATS, IDENTITIES, file_of, pixels_of
from tests.system.flood.wire import BLOCK_BYTES, Answer, Wire, chunked, head_of, in_blocks

ANSWER_S = 120  # an answer that takes longer is lost
_BOUNDARY = "flood-boundary"
_FORM = f"multipart/form-data; boundary={_BOUNDARY}"
_MANY = 1000
_BURST = 10
_SIZES = ((16, 16), (40, 30), (61, 97))
_HANG_UPS = ("in the head", "in the body", "while waiting", "by a reset")


@dataclass
class Flood:
    """What all clients share."""

    port: int
    ledger: Ledger
    stopped: asyncio.Event

    async def run(self) -> None:
        """Send until ``stopped``, then wait for the last answers."""
        makers: list[Callable[[np.random.Generator], Request]] = [
            *(one_image,) * 5,
            *(array, array_unstated, form, form_unstated),
            *(one_bad, bad_among_many, bad_skipped),
            *(hurried, hurried_many),
            named_version,
        ]
        async with asyncio.TaskGroup() as clients:
            for number, make in enumerate(makers):
                clients.create_task(self._client(make, np.random.default_rng(number)))
            for number in range(3):
                clients.create_task(self._hanging_up(np.random.default_rng(1000 + number)))
            clients.create_task(self._bursts(np.random.default_rng(2000)))

    async def _client(
        self, make: Callable[[np.random.Generator], Request], rng: np.random.Generator
    ) -> None:
        while not self.stopped.is_set():
            wire = await Wire.open(self.port)
            for _ in range(rng.integers(1, 20)):
                if not await self._exchange(wire, make(rng), rng) or self.stopped.is_set():
                    break
                await asyncio.sleep(float(rng.uniform(0, 0.05)))
            await wire.close()

    async def _exchange(self, wire: Wire, request: Request, rng: np.random.Generator) -> bool:
        """Send a request and enter its answer; false where the connection is of no more use."""
        request_id = self.ledger.begin(request.kind)
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await _ask(wire, request, request_id, rng)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.ledger.fail(request.kind, f"{request_id} was lost: {type(error).__name__} {error}")
            return False
        self.ledger.check(request, request_id, answer)
        return answer.headers.get("connection") != "close"

    async def _bursts(self, rng: np.random.Generator) -> None:
        """More large requests in one moment than there is room for."""
        while not self.stopped.is_set():
            async with asyncio.TaskGroup() as burst:
                for _ in range(_BURST):
                    burst.create_task(self._alone(array(rng, "burst of arrays"), rng))
            await asyncio.sleep(float(rng.uniform(1, 3)))  # others have their turn

    async def _alone(self, request: Request, rng: np.random.Generator) -> None:
        wire = await Wire.open(self.port)
        await self._exchange(wire, request, rng)
        await wire.close()

    async def _hanging_up(self, rng: np.random.Generator) -> None:
        while not self.stopped.is_set():
            for where in _HANG_UPS:
                kind = f"hang-up {where}"
                request = (array, form)[rng.integers(2)](rng, kind)
                request_id = self.ledger.begin(kind)
                head, blocks = _message(request, request_id, rng)
                if where == "in the head":
                    head, blocks = head[: len(head) // 2], []
                elif where == "in the body":
                    blocks = [*blocks[: len(blocks) // 2], blocks[-1][:-1]]
                wire = await Wire.open(self.port)
                with contextlib.suppress(OSError):  # an early refusal may have closed it
                    await wire.send(head, *blocks)
                    await asyncio.sleep(float(rng.uniform(0, 0.1)))
                await wire.close(reset=where == "by a reset")
                self.ledger.end(kind, "hung up")
            await asyncio.sleep(float(rng.uniform(0, 0.3)))


def _message(
    request: Request, request_id: str, rng: np.random.Generator
) -> tuple[bytes, list[bytes]]:
    """Head, and the body in the blocks in which it is sent."""
    headers = {"X-Request-ID": request_id, "Content-Type": request.content_type}
    if request.timeout_ms is not None:
        headers["X-Request-Timeout"] = f"{request.timeout_ms}ms"
    blocks = in_blocks(request.body, int(rng.integers(1000, BLOCK_BYTES)))
    if request.chunked:
        headers["Transfer-Encoding"] = "chunked"
        blocks = chunked(blocks)
    else:
        headers["Content-Length"] = str(len(request.body))
    return head_of(request.query, headers), blocks


async def _ask(wire: Wire, request: Request, request_id: str, rng: np.random.Generator) -> Answer:
    head, blocks = _message(request, request_id, rng)
    await wire.send(head, *blocks)
    return await wire.receive()


def one_image(rng: np.random.Generator) -> Request:
    identity, kind = int(rng.integers(IDENTITIES)), FORMATS[rng.integers(len(FORMATS))]
    data = file_of(identity, kind, *_SIZES[rng.integers(len(_SIZES))])
    return Request("one image", data, f"image/{kind.lower()}", [identity])


def array(rng: np.random.Generator, kind: str = "many as an array") -> Request:
    identities = _draw(rng, _MANY * int(rng.integers(1, 3)))
    body = io.BytesIO()
    np.save(body, pixels_of(identities))
    return Request(kind, body.getvalue(), "application/x-npy", [*identities])


def array_unstated(rng: np.random.Generator) -> Request:
    return replace(array(rng, "many as an array, chunked"), chunked=True)


def form(rng: np.random.Generator, kind: str = "many as a form") -> Request:
    identities = _draw(rng, _MANY)
    body = _form([_file(identity, rng) for identity in identities])
    return Request(kind, body, _FORM, [*identities])


def form_unstated(rng: np.random.Generator) -> Request:
    return replace(form(rng, "many as a form, chunked"), chunked=True)


def one_bad(rng: np.random.Generator) -> Request:
    return Request("one bad image", BAD[rng.integers(len(BAD))], "image/png", [None])


def bad_among_many(rng: np.random.Generator) -> Request:
    return _some_bad(rng, "bad among many", skip=False)


def bad_skipped(rng: np.random.Generator) -> Request:
    return _some_bad(rng, "bad among many, skipped", skip=True)


def hurried(rng: np.random.Generator) -> Request:
    return replace(one_image(rng), kind="tiny deadline, one image", timeout_ms=_tiny_ms(rng))


def hurried_many(rng: np.random.Generator) -> Request:
    many, chunked_too = array(rng, "tiny deadline, many"), bool(rng.integers(2))
    return replace(many, chunked=chunked_too, timeout_ms=_tiny_ms(rng))


def named_version(rng: np.random.Generator) -> Request:
    version = int(rng.integers(1, 5))
    return replace(one_image(rng), kind=f"version {version} by name", version=version)


def _some_bad(rng: np.random.Generator, kind: str, *, skip: bool) -> Request:
    expected: list[int | None] = [*_draw(rng, int(rng.integers(2, 300)))]
    for index in rng.integers(0, len(expected), 5):
        expected[index] = None
    files = [
        BAD[rng.integers(len(BAD))] if identity is None else _file(identity, rng)
        for identity in expected
    ]
    return Request(kind, _form(files), _FORM, expected, bool(rng.integers(2)), skip)


def _tiny_ms(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 51))


def _draw(rng: np.random.Generator, count: int) -> list[int]:
    drawn: list[int] = rng.integers(0, IDENTITIES, count).tolist()
    return drawn


def _file(identity: int, rng: np.random.Generator) -> bytes:
    return file_of(identity, ("PNG", "BMP")[rng.integers(2)])


def _form(files: list[bytes]) -> bytes:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    start = head.encode()
    return b"".join([*(start + file + b"\r\n" for file in files), f"--{_BOUNDARY}--\r\n".encode()])

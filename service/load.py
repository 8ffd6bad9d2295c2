"""A closed-loop load generator: so many connections, each with one request under way at a time.

    python -m service.load --port 8000 --connections 32 --seconds 10 cat.jpg dog.jpg

prints JSON. Requests are bytes that were made beforehand and answers are hardly looked at, so that
one costs some forty microseconds of CPU, half of them the kernel's. It runs in a process of its
own, for one that shared the interpreter with anything else would measure that too. On the machine
of the server it still shares the CPUs with it: figures are those of a machine that has both to do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from service.http_answer import AnswerError, AnswerReader
from service.latency import Histogram

_OK = 200
_RECONNECT_S = 0.05
_CONNECT_S = 10.0
_SHOWN = 300  # characters of an answer that was none


class LoadError(Exception):
    """The server can't be reached, or does not speak HTTP/1.1 as is needed here."""


@dataclass(frozen=True)
class Target:
    """Where requests go, and how.

    Attributes:
        host: Name or address.
        port: Of the server.
        path: With its query.
        connections: Requests that are under way at once.
        seconds: After that, no request is begun.
        drain_s: So long the last answers are waited for.
    """

    host: str
    port: int
    path: str
    connections: int
    seconds: float
    drain_s: float = 30.0


@dataclass
class Report:
    """What came of a load.

    Attributes:
        answered: Answers with status 200, within the time or after it.
        in_time: Those of them within the time.
        seconds: The time.
        latencies: Of all answers with status 200.
        failures: How many requests had no such answer, by the reason.
        example: The beginning of the first answer with another status.
    """

    answered: int = 0
    in_time: int = 0
    seconds: float = 0.0
    latencies: Histogram = field(default_factory=Histogram)
    failures: dict[str, int] = field(default_factory=dict)
    example: str = ""

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.in_time / self.seconds if self.seconds else 0.0

    def fail(self, reason: str) -> None:
        """Count a request without an answer."""
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def to_json(self) -> str:
        """As one line that ``read_report`` reads."""
        return json.dumps(asdict(self))


def read_report(text: str) -> Report:
    """Read what ``Report.to_json`` wrote."""
    values = json.loads(text)
    found = values.pop("latencies")
    counts = {int(bucket): count for bucket, count in found["counts"].items()}
    return Report(**values, latencies=Histogram(counts, found["max_s"]))


class _Load:
    """What all connections share."""

    def __init__(self, target: Target, bodies: Sequence[bytes]) -> None:
        self.target = target
        self.requests: Iterator[bytes] = itertools.cycle(
            [_request(target, body) for body in bodies]
        )
        self.report = Report(seconds=target.seconds)
        self.until_s = 0.0
        self.open: set[_Connection] = set()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Report:
        self.until_s = time.perf_counter() + _CONNECT_S
        opening = [self.connect() for _ in range(self.target.connections)]
        await asyncio.gather(*opening)
        self.until_s = time.perf_counter() + self.target.seconds
        for connection in list(self.open):
            if not connection.waiting:  # it took the place of one that was lost
                connection.begin()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over, self.target.seconds + self.target.drain_s)
        finally:
            await self._close()
        return self.report

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        left, self.open = self.open, set()
        for connection in left:
            if connection.waiting:
                self.report.fail("no answer")
            connection.abandon()
        await asyncio.sleep(0)  # sockets close in the next turn of the loop

    async def connect(self) -> _Connection:
        loop, target = asyncio.get_running_loop(), self.target
        connecting = loop.create_connection(lambda: _Connection(self), target.host, target.port)
        try:
            _, connection = await asyncio.wait_for(connecting, _CONNECT_S)
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no connection within {_CONNECT_S:g} s"
            raise LoadError(f"{target.host} port {target.port} is gone: {reason}") from None
        return connection

    def leave(self, connection: _Connection) -> None:
        """A connection has no more to do."""
        self.open.discard(connection)
        connection.abandon()
        if not self.open and not self._tasks and not self.over.done():
            self.over.set_result(None)

    def lose(self, connection: _Connection, reason: str) -> None:
        """A connection was closed by the server."""
        self.open.discard(connection)
        if connection.waiting:
            self.report.fail(reason)
        if time.perf_counter() < self.until_s:
            self._start(self._again())
        else:
            self.leave(connection)

    async def _again(self) -> None:
        await asyncio.sleep(_RECONNECT_S)
        (await self.connect()).begin()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.over.done():
            self.over.set_exception(error)

    def fail(self, message: str) -> None:
        """End everything."""
        if not self.over.done():
            self.over.set_exception(LoadError(message))


class _Connection(asyncio.Protocol):
    """Sends a request, waits for its answer, and so on."""

    def __init__(self, load: _Load) -> None:
        self.load = load
        self.waiting = False
        self._transport: asyncio.Transport | None = None
        self._answer = AnswerReader()
        self._begun_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self.load.open.add(self)

    def begin(self) -> None:
        """Send the next request; leave when the time is up."""
        now_s = time.perf_counter()
        if now_s >= self.load.until_s:
            self.load.leave(self)
            return
        assert self._transport is not None
        self.waiting, self._begun_s = True, now_s
        self._transport.write(next(self.load.requests))

    def data_received(self, data: bytes) -> None:
        try:
            complete = self._answer.feed(data)
        except AnswerError as error:
            self.load.fail(str(error))
            return
        if complete:
            self._take_answer()

    def _take_answer(self) -> None:
        now_s = time.perf_counter()
        report, answer = self.load.report, self._answer
        if answer.status == _OK:
            report.answered += 1
            report.in_time += now_s < self.load.until_s
            report.latencies.add(now_s - self._begun_s)
        else:
            report.fail(f"status {answer.status}")
            report.example = report.example or answer.body().decode(errors="replace")[:_SHOWN]
        answer.clear()
        self.waiting = False
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.load.open:
            self.load.lose(self, "connection lost")

    def abandon(self) -> None:
        """Close it, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()


def _request(target: Target, body: bytes) -> bytes:
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def generate(target: Target, bodies: Sequence[bytes]) -> Report:
    """Put a server under load.

    Args:
        target: Where requests go, and how.
        bodies: Sent in turns.

    Raises:
        LoadError: The server can't be reached, or no longer.
    """
    return await _Load(target, bodies).run()


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser("python -m service.load", description="Closed-loop load.")
    parser.add_argument("bodies", nargs="+", type=Path, metavar="FILE", help="sent in turns")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/classify")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args(argv)
    target = Target(args.host, args.port, args.path, args.connections, args.seconds)
    try:
        bodies = [path.read_bytes() for path in args.bodies]
        report = _run(generate(target, bodies))
    except (OSError, LoadError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report.to_json())
    return 0


def _run(work: Coroutine[Any, Any, Report]) -> Report:
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        return asyncio.run(work)
    return uvloop.run(work)


if __name__ == "__main__":
    sys.exit(main())

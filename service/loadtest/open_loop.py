"""Send requests when they are due, whatever became of those before.

A generator that waits for an answer before it sends the next request asks a slow server less, and
then measures only the requests that it did send: a server that stands still for a second costs it
one slow answer instead of all that would have come in that second (coordinated omission). Here the
schedule is made beforehand, and a latency counts from the time at which its request was due, though
all connections may have been busy then.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from service.loadtest.connection import LOST, Connection, Request
from service.loadtest.measurement import Load, Measurement
from service.loadtest.schedule import arrivals

_LEAD_S = 0.05  # from the start to the first request
_SWEEP_S = 0.1
_CODE = re.compile(r"[a-z][a-z0-9_]{0,40}")
_SHOWN = 300  # characters of what the server says


@dataclass(frozen=True)
class Address:
    """Where connections go."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


async def measure(address: Address, load: Load, requests: Iterator[bytes]) -> Measurement:
    """Put a server under a load.

    It ends ``load.timeout_s`` after the last request was due at the latest, however the server
    behaves. When it is cancelled, it returns what was measured so far.

    Args:
        address: Of the server.
        load: What is sent.
        requests: All bytes of one request each, endlessly.
    """
    return await _OpenLoop(address, load, requests).run()


class _OpenLoop:
    def __init__(self, address: Address, load: Load, requests: Iterator[bytes]) -> None:
        self._address, self._load, self._requests = address, load, requests
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._found = Measurement(load)
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Request] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._start_s = self._loop.time() + _LEAD_S
        self._measured_from_s = self._start_s + load.warm_up_s
        self._until_s = self._measured_from_s + load.seconds
        self._schedule = arrivals(load.arrivals, load.rate_per_s, load.warm_up_s + load.seconds)
        self._due_s = self._next_due_s()
        self._free_since_s = 0.0  # since when there has been a connection for another request

    async def run(self) -> Measurement:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        found = self._found
        found.seconds = self._load.seconds
        try:
            self._dispatch()
            self._sweep()
            await self._over
        except asyncio.CancelledError:
            found.interrupted = True
            lasted_s = min(self._loop.time(), self._until_s) - self._measured_from_s
            found.seconds = max(0.0, lasted_s)
        finally:
            await self._close()
        found.client_cpus = (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)
        return found

    def _next_due_s(self) -> float:
        """When the next request is due; infinite after the last."""
        return self._start_s + next(self._schedule, math.inf)

    def _dispatch(self) -> None:
        """Send what is due as far as there are connections, and come again for the next."""
        if self._over.done():
            return
        while self._due_s <= (now_s := self._loop.time()):
            if self._is_full():
                return  # the next connection that is free takes it
            request = self._take()
            if request.counted:
                lag_s = now_s - max(request.due_s, self._free_since_s)
                self._found.lags.add(max(0.0, lag_s))
            request.data = next(self._requests)
            if self._idle:
                self._send(self._idle.pop(), request)
            else:
                self._open(request)
        if self._due_s < math.inf:
            self._come_again(self._due_s)
        elif not self._busy and not self._opening:
            self._over.set_result(None)

    def _come_again(self, due_s: float) -> None:
        if self._timer is not None:
            if self._timer.when() == due_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._come)

    def _come(self) -> None:
        self._timer = None
        self._dispatch()

    def _take(self) -> Request:
        """The request whose turn it is."""
        request = Request(self._due_s, counted=self._due_s >= self._measured_from_s)
        self._found.due += request.counted
        self._due_s = self._next_due_s()
        return request

    def _is_full(self) -> bool:
        in_use = len(self._busy) + len(self._opening)
        return not self._idle and in_use >= self._load.connections

    def _release(self) -> None:
        """A connection, or room for one, is about to be free again."""
        if self._is_full():
            self._free_since_s = self._loop.time()

    def _send(self, connection: Connection, request: Request) -> None:
        self._busy[connection] = request
        connection.send(request, self._loop.time())

    def _open(self, request: Request) -> None:
        """Open a connection and send a request on it."""
        task = self._loop.create_task(self._connect(request))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    async def _connect(self, request: Request) -> None:
        address = self._address
        try:
            async with asyncio.timeout_at(request.due_s + self._load.timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self), address.host, address.port, ssl=address.tls
                )
        except TimeoutError:
            self._give_up(request, f"no connection within {self._load.timeout_s:g} s")
        except OSError as error:
            self._fail(request, f"no connection: {_reason(error)}")
        else:
            if connection.closed:
                self._fail(request, LOST)
            else:
                self._send(connection, request)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._release()
        self._opening.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self._over.done():
            self._over.set_exception(error)
        self._dispatch()

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """Count an answer and give the connection its next request."""
        self._release()
        request = self._busy.pop(connection)
        if request.counted:
            self._count(request, status, body)
        if connection.keeps_open:
            self._idle.append(connection)
        else:
            connection.abandon()
        self._dispatch()

    def _count(self, request: Request, status: int, body: bytes) -> None:
        found, now_s = self._found, self._loop.time()
        if status != HTTPStatus.OK:
            found.fail(*_refusal(status, body))
            return
        found.answered += 1
        found.in_time += now_s <= self._until_s
        found.latencies.add(now_s - request.due_s)
        found.service_times.add(now_s - request.sent_s)

    def lost(self, connection: Connection, reason: str) -> None:
        """Count a request that got no answer, unless it may be sent again."""
        if connection in self._idle:  # closed by the server while there was nothing to do
            self._idle.remove(connection)
            return
        if connection not in self._busy:  # closed before anything was sent
            return
        self._release()
        request = self._busy.pop(connection)
        if connection.answers and not connection.answer_begun and not request.again:
            # It was closed for being idle just when the request came; clients send again.
            request.again = True
            self._open(request)
            return
        self._fail(request, reason)
        self._dispatch()

    def _fail(self, request: Request, reason: str) -> None:
        if request.counted:
            self._found.fail(reason)

    def _give_up(self, request: Request, reason: str) -> None:
        """Count a request that has waited long enough, and how long that was."""
        self._fail(request, reason)
        if request.counted:
            self._found.latencies.add(max(self._load.timeout_s, self._loop.time() - request.due_s))

    def _sweep(self) -> None:
        """Give up what is over its time; a server that stands still must not hold this up."""
        overdue_s, limit = self._loop.time() - self._load.timeout_s, f"{self._load.timeout_s:g} s"
        for connection, request in list(self._busy.items()):
            if request.due_s <= overdue_s:
                self._release()
                del self._busy[connection]
                self._give_up(request, f"no answer within {limit}")
                connection.abandon()
        while self._due_s <= overdue_s:
            self._give_up(self._take(), f"not sent within {limit}: all connections were busy")
        self._dispatch()
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    async def _close(self) -> None:
        self._over.cancel()
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in (*self._idle, *self._busy):
            connection.abandon()
        await asyncio.sleep(0)  # sockets close in the next turn of the loop


def _reason(error: OSError) -> str:
    # asyncio's own message has the address, which differs from one connection to the next.
    return os.strerror(error.errno) if error.errno else str(error)[:_SHOWN] or type(error).__name__


def _refusal(status: int, body: bytes) -> tuple[str, str]:
    """Why a request was refused, as briefly as it can be counted, and what the server says."""
    text = body.decode(errors="replace")
    try:
        problem = json.loads(text)
        code, detail = problem["code"], str(problem["detail"])
        if _CODE.fullmatch(code):
            return f"{status} {code}", detail[:_SHOWN]
    except (ValueError, KeyError, TypeError):
        pass
    try:
        return f"{status} {HTTPStatus(status).phrase}", text[:_SHOWN]
    except ValueError:
        return str(status), text[:_SHOWN]

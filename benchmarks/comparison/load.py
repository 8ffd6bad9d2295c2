"""Put one server under load: many small requests with wrk, few large ones from threads here."""

from __future__ import annotations

import http.client
import re
import resource
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from comparison.processes import ServerError, cpu_seconds, machine_seconds

_SCRIPT = Path(__file__).with_name("wrk.lua")
_ANSWER_S = 60
_TWO_THREADS_FROM = 64  # connections
_FEW = 20  # requests that say nothing of their percentiles
_RESULT = re.compile(
    r"^result: requests=(\d+) duration_us=(\d+) p50_us=(\d+) p99_us=(\d+)"
    r" bad_status=(\d+) socket_errors=(\d+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Target:
    """Where the bodies go.

    Attributes:
        port: On this machine.
        path: With its query.
        headers: Of every request.
        bodies: Files that are sent in turns.
    """

    port: int
    path: str
    headers: dict[str, str]
    bodies: tuple[Path, ...]


@dataclass(frozen=True)
class Used:
    """User and system time.

    Attributes:
        server_s: Of the server's whole tree.
        client_s: Of the load generator.
        other_s: Of everything else on the machine, which ought to be idle.
    """

    server_s: float
    client_s: float
    other_s: float


_NO_TIME = Used(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Load:
    """What came of a load.

    Attributes:
        requests: That were answered.
        duration_s: From the first to the last.
        p50_ms: Median latency; None where there were too few requests to say.
        p99_ms: Likewise.
        bad: Requests with another status than 2xx, or cut off.
        used: CPU time meanwhile.
    """

    requests: int
    duration_s: float
    p50_ms: float | None
    p99_ms: float | None
    bad: int
    used: Used = _NO_TIME


def require_wrk() -> str:
    """Where wrk is.

    Raises:
        SystemExit: It is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("wrk, the load generator, is missing; on Debian and Ubuntu: install wrk")
    return found


def with_wrk(target: Target, connections: int, seconds: int) -> Load:
    """Load a server with small requests.

    Raises:
        ServerError: wrk failed, or the server answered nothing at all.
    """
    headers = [word for pair in target.headers.items() for word in pair]
    threads = 2 if connections >= _TWO_THREADS_FROM else 1
    command = [
        *(require_wrk(), "--latency", "--timeout", f"{_ANSWER_S}s", "--script", str(_SCRIPT)),
        *("--threads", str(threads), "--connections", str(connections)),
        *("--duration", f"{seconds}s", f"http://127.0.0.1:{target.port}", "--"),
        *(target.path, str(len(target.headers)), *headers, *map(str, target.bodies)),
    ]
    clock = _Clock(_children_seconds)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    used = clock.read()
    if done.returncode:
        raise ServerError(f"wrk failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return replace(parse_wrk(done.stdout), used=used)


def parse_wrk(text: str) -> Load:
    """Read the line that the script ends with.

    Raises:
        ServerError: There is none, or no request was answered.
    """
    found = _RESULT.search(text)
    if found is None:
        raise ServerError("wrk said nothing that can be read")
    requests, duration_us, p50_us, p99_us, bad_status, socket_errors = map(int, found.groups())
    if not requests:
        raise ServerError("no request was answered")
    return Load(
        requests=requests,
        duration_s=duration_us / 1e6,
        p50_ms=p50_us / 1e3,
        p99_ms=p99_us / 1e3,
        bad=bad_status + socket_errors,
    )


def with_threads(target: Target, connections: int, seconds: float) -> Load:
    """Load a server with large requests, and wait for the last answer.

    wrk counts what was answered when its time is up; of requests that take a second that would be
    a matter of luck. Here every request that was begun counts, and time ends with the last answer.

    Raises:
        ServerError: A connection failed.
    """
    bodies = [path.read_bytes() for path in target.bodies]
    workers = [_Worker(target, bodies, number) for number in range(connections)]
    clock = _Clock(time.process_time)
    started = time.perf_counter()
    for worker in workers:
        worker.until = started + seconds
        worker.start()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - started
    used = clock.read()
    for worker in workers:
        if worker.failure is not None:
            raise ServerError(worker.failure)
    latencies = [latency for worker in workers for latency in worker.latencies_ms]
    return Load(
        requests=sum(worker.answered for worker in workers),
        duration_s=elapsed,
        p50_ms=_percentile(latencies, 50),
        p99_ms=_percentile(latencies, 99),
        bad=sum(worker.bad for worker in workers),
        used=used,
    )


def post(target: Target, body: bytes, timeout_s: float = _ANSWER_S) -> bytes:
    """Send one request.

    Raises:
        ServerError: Its status is not 200.
        OSError: The connection failed.
        http.client.HTTPException: Likewise.
    """
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=timeout_s)
    try:
        connection.request("POST", target.path, body, target.headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise ServerError(f"status {answer.status}: {content[:300]!r}")
        return content
    finally:
        connection.close()


class _Worker(threading.Thread):
    """One connection that sends request after request."""

    def __init__(self, target: Target, bodies: Sequence[bytes], number: int) -> None:
        super().__init__(daemon=True)
        self.target = target
        self.bodies = bodies
        self.number = number
        self.until = 0.0
        self.answered = 0
        self.bad = 0
        self.latencies_ms: list[float] = []
        self.failure: str | None = None

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.target.port, timeout=_ANSWER_S)
        try:
            while time.perf_counter() < self.until:
                body = self.bodies[(self.number + self.answered) % len(self.bodies)]
                began = time.perf_counter()
                connection.request("POST", self.target.path, body, self.target.headers)
                answer = connection.getresponse()
                answer.read()
                self.latencies_ms.append((time.perf_counter() - began) * 1e3)
                self.answered += 1
                self.bad += answer.status != 200
        except (OSError, http.client.HTTPException) as error:
            self.failure = f"a connection failed: {error or type(error).__name__}"
        finally:
            connection.close()


def _percentile(values: list[float], percent: int) -> float | None:
    """None where there are too few to say."""
    if len(values) < _FEW:
        return None
    return statistics.quantiles(values, n=100)[percent - 1]


class _Clock:
    """CPU time of the server, the load generator and the rest of the machine since its making."""

    def __init__(self, client_seconds: Callable[[], float]) -> None:
        self.client_seconds = client_seconds
        self.before = self._now()

    def read(self) -> Used:
        server, client, machine = (
            now - before for now, before in zip(self._now(), self.before, strict=True)
        )
        return Used(server, client, max(0.0, machine - server - client))

    def _now(self) -> tuple[float, float, float]:
        return cpu_seconds(), self.client_seconds(), machine_seconds()


def _children_seconds() -> float:
    """CPU time of every child that has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

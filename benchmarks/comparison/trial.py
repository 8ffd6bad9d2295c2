"""One server, one model, once: start it, check its answers, warm it, measure it, end it."""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from comparison.contenders import Contender, Kind, Launch
from comparison.load import Load, Target, post, with_threads, with_wrk
from comparison.networks import Network
from comparison.processes import (
    Server,
    ServerError,
    free_port,
    memory,
    running,
    scratch_folder,
)
from comparison.stock import Stock

_Send = Callable[[Target, int, int], Load]
_READY_S = 120
_POLL_S = 0.01
_IN_A_ROW = 30  # right answers, on as many connections
_CHECKED = 3  # bodies of each kind
_STABLE = 0.05  # two slices of warming that differ by less
_WARM_CONNECTIONS = 32
_MAX_SLICES = 4  # of a second, beyond the server's own minimum


@dataclass(frozen=True)
class Cell:
    """One thing to measure.

    Attributes:
        kind: Of request.
        images: A request.
        connections: At once.
        seconds: How long.
        few: Requests are so large that they must be waited for rather than counted.
    """

    kind: Kind
    images: int
    connections: int
    seconds: int
    few: bool = False

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.kind} {self.images}x{self.connections}"


@dataclass
class Outcome:
    """What came of it: figures by name, and why others are missing.

    ``start_s``, ``rss_bytes`` and ``pss_bytes``; for each cell ``<key> rate`` in images/s and, for
    wrk's, ``<key> p50_ms``, ``<key> p99_ms``; ``<key> cpu_ms`` and ``<key> client_cpu_ms`` an
    image; ``<key> bad`` requests; ``<key> other_cores`` that were busy with something else.
    """

    figures: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is tried.

    Attributes:
        contender: The server.
        environment: Its Python environment.
        network: The model.
        model: Its file.
        stock: Pictures for it.
    """

    contender: Contender
    environment: Path
    network: Network
    model: Path
    stock: Stock

    def target(self, kind: Kind, images: int, port: int) -> Target:
        """Where requests of a kind go."""
        route = self.contender.routes[kind]
        path = route.path.format(model=self.network.name)
        files = self.stock.bodies(route.encoding, images)
        return Target(port, path, dict(route.encoding.headers), files)


def try_once(subject: Subject, cells: list[Cell]) -> Outcome:
    """Measure a server; what fails is in the outcome, and never raised."""
    outcome = Outcome()
    try:
        with scratch_folder() as folder:
            _try(subject, cells, folder, outcome)
    except (ServerError, OSError, http.client.HTTPException) as error:
        outcome.failures["server"] = str(error)
    return outcome


def _try(subject: Subject, cells: list[Cell], folder: Path, outcome: Outcome) -> None:
    port = free_port()
    cores = len(os.sched_getaffinity(0))
    start = subject.contender.start(Launch(subject.environment, subject.model, folder, port, cores))
    jpeg = subject.target("jpeg", 1, port)
    slow = any(cell.few and cell.images == 1 for cell in cells)
    send = with_threads if slow else with_wrk
    with running(start.command, start.environ, folder, port) as server:
        outcome.figures["start_s"] = _until_ready(server, subject, jpeg)
        wrong = _check(subject, cells, port, outcome)
        first = subject.contender.single_first
        if not first:
            _warm(jpeg, send, _WARM_CONNECTIONS, subject.contender.warm_s)
        for cell in cells:
            single = cell.kind == "jpeg" and cell.connections == 1
            if single:
                _warm(jpeg, send, 1, subject.contender.warm_s if first else 1)
            if cell.kind in subject.contender.routes and (cell.kind, cell.images) not in wrong:
                _measure(server, subject, cell, outcome)
            if single and first:
                _warm(jpeg, send, _WARM_CONNECTIONS, subject.contender.warm_s)
        used = memory()
        outcome.figures |= {"rss_bytes": used.rss_bytes, "pss_bytes": used.pss_bytes}


def _until_ready(server: Server, subject: Subject, target: Target) -> float:
    """Wait for right answers in a row; of several workers one may answer before others can.

    Returns:
        Seconds from the start until the first right answer.
    """
    body = target.bodies[0].read_bytes()
    read = subject.contender.routes["jpeg"].read
    first_s, in_a_row, said = 0.0, 0, "no answer"
    while (elapsed := time.perf_counter() - server.started_at) < _READY_S:
        server.check_alive()
        try:
            subject.stock.check(0, 1, read(post(target, body)))
            first_s = first_s or time.perf_counter() - server.started_at
            in_a_row += 1
            if in_a_row >= _IN_A_ROW:
                return first_s
        except (OSError, http.client.HTTPException, ServerError, ValueError, KeyError) as error:
            said, in_a_row = str(error) or type(error).__name__, 0
            time.sleep(_POLL_S)
    raise ServerError(f"not ready after {elapsed:.0f} s: {said}; {server.log_tail()}")


def _check(
    subject: Subject, cells: list[Cell], port: int, outcome: Outcome
) -> set[tuple[Kind, int]]:
    """Every kind of request must be answered rightly before it is timed; returns what was not."""
    broken = set()
    for kind, images in dict.fromkeys((cell.kind, cell.images) for cell in cells):
        if kind not in subject.contender.routes:
            continue
        target = subject.target(kind, images, port)
        try:
            for index, path in enumerate(target.bodies[:_CHECKED]):
                content = post(target, path.read_bytes())
                answers = subject.contender.routes[kind].read(content)
                subject.stock.check(index, images, answers)
        except (OSError, http.client.HTTPException, ServerError, ValueError, KeyError) as error:
            outcome.failures[f"{kind} {images}"] = str(error) or type(error).__name__
            broken.add((kind, images))
    return broken


def _warm(target: Target, send: _Send, connections: int, least_s: int) -> None:
    """Load it until its rate is steady."""
    before = rate = 0.0
    for second in range(least_s + _MAX_SLICES):
        with contextlib.suppress(ServerError):  # a slow one may answer nothing in a second
            load = send(target, connections, 1)
            rate = load.requests / load.duration_s
        if second + 1 >= least_s and abs(rate - before) <= _STABLE * rate:
            return
        before = rate


def _measure(server: Server, subject: Subject, cell: Cell, outcome: Outcome) -> None:
    target = subject.target(cell.kind, cell.images, server.port)
    send = with_threads if cell.few else with_wrk
    try:
        load = send(target, cell.connections, cell.seconds)
        server.check_alive()
    except ServerError as error:
        outcome.failures[cell.key] = str(error)
        return
    outcome.figures |= _figures(cell, load)
    if load.bad:
        outcome.failures[cell.key] = f"{load.bad} of {load.requests} requests were refused or lost"


def _figures(cell: Cell, load: Load) -> dict[str, float]:
    good = max(0, load.requests - load.bad)
    images = load.requests * cell.images
    found = {
        "rate": good * cell.images / load.duration_s,
        "bad": float(load.bad),
        "cpu_ms": load.used.server_s * 1000 / images,
        "client_cpu_ms": load.used.client_s * 1000 / images,
        "other_cores": load.used.other_s / load.duration_s,
    }
    if load.p50_ms is not None and load.p99_ms is not None:
        found |= {"p50_ms": load.p50_ms, "p99_ms": load.p99_ms}
    return {f"{cell.key} {name}": value for name, value in found.items()}

"""Measure a candidate: start the service with it, put it under load, watch its processes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from service.access_settings import AccessSettings
from service.load import Report, read_report
from service.settings import Settings
from service.tuning import processes, stops
from service.tuning.server import HOST, Running, ServerError, program, running
from service.tuning.trials import Candidate, Level, Trial
from service.tuning.write import assignments

_WARM_UP_S, _WARM_UPS = 0.5, 20
_WATCH_S = 0.1
_FEWER_SHARE = 1 / 3  # of the time, for each of the lower numbers of connections
_CLIENT_S = 90.0  # so much longer than the load may its process take


@dataclass(frozen=True)
class Plan:
    """What every candidate has to answer.

    Attributes:
        path: With the query that names the model.
        pictures: Sent in turns, one a request.
        connections: Under way at once; limits hold for this number.
        seconds: Of one measurement.
    """

    path: str
    pictures: tuple[Path, ...]
    connections: int
    seconds: float

    @property
    def fewer(self) -> list[int]:
        """Lower numbers of connections that are measured too: one in between, and 1."""
        between = round(math.sqrt(self.connections))
        return sorted({1, between} - {self.connections}, reverse=True)


@dataclass
class Bench:
    """Starts candidates and measures them.

    Attributes:
        settings: All settings that are not tuned.
        folder: For logs and settings files.
        tell: Told what people should know meanwhile.
    """

    settings: Settings
    folder: Path
    tell: Callable[[str], None] = lambda text: None
    _seen: set[Candidate] = field(default_factory=set)

    @contextlib.contextmanager
    def serving(self, candidate: Candidate) -> Iterator[Running]:
        """Run the service with a candidate; it is ready.

        Raises:
            ServerError: It does not start.
        """
        config = self.folder / "candidate.toml"
        lines = assignments(_open_to_all(self.settings), candidate)
        config.write_text("\n".join(lines) + "\n")
        with running(config, self.folder / "serve.log") as server:
            server.wait_until_ready(candidate.workers, self.tell)
            yield server

    def measure(self, candidate: Candidate, plan: Plan) -> Trial:
        """Start it once and measure; lower numbers of connections only the first time."""
        fewer = [] if candidate in self._seen else plan.fewer
        self._seen.add(candidate)
        try:
            with self.serving(candidate) as server:
                warm_up(server, plan)
                return _trial(server, plan, fewer)
        except ServerError as error:
            return Trial(failure=str(error))

    def levels(self, server: Running, plan: Plan, connections: int) -> Level:
        """Measure one number of connections on a service that runs.

        Raises:
            ServerError: Not every answer was a good one.
        """
        return _level(_load(server, plan, connections, plan.seconds), connections)


def _open_to_all(settings: Settings) -> Settings:
    """Without TLS, keys, rates and another port: the load is plain HTTP, and nobody's."""
    defaults = {name: field.default for name, field in AccessSettings.model_fields.items()}
    return settings.model_copy(update=defaults)


def warm_up(server: Running, plan: Plan) -> None:
    """Send load until a while of it went well.

    Raises:
        ServerError: It never does.
    """
    for attempt in range(_WARM_UPS):
        report = _load(server, plan, plan.connections, _WARM_UP_S)
        if not report.failures and report.answered:
            return
        # Some worker may still load its models; whatever else it is will last.
        if not all(reason == "status 503" for reason in report.failures):
            break
        time.sleep(_WARM_UP_S * min(attempt, 4))
    _level(report, plan.connections)


def _trial(server: Running, plan: Plan, fewer: Sequence[int]) -> Trial:
    usage = _Usage(server.process.pid)
    report = _load(server, plan, plan.connections, plan.seconds, usage)
    most = _level(report, plan.connections)
    pss_bytes = processes.pss_bytes(server.process.pid)
    seconds = plan.seconds * _FEWER_SHARE
    levels = [_level(_load(server, plan, number, seconds), number) for number in fewer]
    return Trial(
        levels=(most, *levels),
        rss_bytes=usage.rss_bytes,
        pss_bytes=pss_bytes,
        cpu_ms=usage.cpu_s / report.answered * 1e3,
        other_cpus=usage.other_cpus,
    )


class _Usage:
    """What a service, and what else there is, use from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before_s = self._times_s()
        self.cpu_s = 0.0
        self.rss_bytes = 0
        self.other_cpus = 0.0

    def look(self) -> None:
        self.rss_bytes = max(self.rss_bytes, processes.rss_bytes(self._pid))

    def end(self) -> None:
        """The load is over, its client has ended."""
        self.look()
        now = self._times_s()
        wall_s, machine_s, own_s, self.cpu_s = (
            after - before for after, before in zip(now, self._before_s, strict=True)
        )
        self.other_cpus = max(0.0, machine_s - own_s - self.cpu_s) / wall_s

    def _times_s(self) -> tuple[float, float, float, float]:
        """On the wall, of the machine, of this process with clients that have ended, of it."""
        ours = os.times()
        own_s = ours.user + ours.system + ours.children_user + ours.children_system
        return time.monotonic(), processes.machine_cpu_s(), own_s, processes.cpu_s(self._pid)


def _load(
    server: Running, plan: Plan, connections: int, seconds: float, usage: _Usage | None = None
) -> Report:
    """Run the load generator, in a process of its own.

    Raises:
        ServerError: It could not reach the service, or no longer.
    """
    options = {"host": HOST, "port": server.port, "path": plan.path}
    options |= {"connections": connections, "seconds": seconds}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    client = None
    try:
        with stops.deferred():
            client = subprocess.Popen(  # noqa: S603, it is a module of this program
                [*program("-m", "service.load", *words), "--", *map(str, plan.pictures)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        output, error = _watch(client, seconds + _CLIENT_S, usage)
    finally:
        if client is not None:
            client.kill()
            client.wait()
    if usage is not None:
        usage.end()
    if client.returncode:
        server.check_alive()
        raise ServerError(error.strip().rpartition("\n")[2] or "the load generator failed")
    return read_report(output)


def _watch(
    client: subprocess.Popen[str], timeout_s: float, usage: _Usage | None
) -> tuple[str, str]:
    until_s = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return client.communicate(timeout=_WATCH_S)
        if usage is not None:
            usage.look()
        if time.monotonic() > until_s:
            raise ServerError(f"the load did not end within {timeout_s:.0f} s")


def _level(report: Report, connections: int) -> Level:
    """Take a report for good only if every answer was.

    Raises:
        ServerError: Some were not, or there were none in time.
    """
    if report.failures:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in report.failures.items())
        total = report.answered + sum(report.failures.values())
        example = f": {_detail(report.example)}" if report.example else ""
        raise ServerError(f"of {total} requests failed: {reasons}{example}")
    if not report.in_time:
        raise ServerError(f"no answer within {report.seconds:g} s; --seconds gives more")
    return Level(connections, report.per_s, report.latencies)


def _detail(body: str) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body


def classify_path(model: str | None) -> str:
    """Where an image is sent: to a model, or the default one."""
    return "/v1/classify" + (f"?model={quote(model)}" if model else "")

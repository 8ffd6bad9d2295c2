"""A real ``adaresnet serve`` that things are done to, and what it holds meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

READY_S = 90.0
_STOP_S = 60.0
_PROBE = b"service.engine.probe"
_COMMAND = "import sys; from service.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Held:
    """What a process and its workers hold, those that try model files excepted."""

    rss_mib: float
    files: int
    threads: int


@dataclass
class Service:
    """A running service.

    Attributes:
        process: The one that was started: the service, or the parent of its workers.
        port: Where it listens.
        log: What it writes, unless a test takes that itself.
        workers: How many there are; 0: the process serves by itself.
        exited: Its exit status, once it has been waited for.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    workers: int = 0
    exited: int | None = None

    @property
    def serving_pids(self) -> list[int]:
        """The processes that answer."""
        return sorted(children(self.process.pid)) if self.workers else [self.process.pid]

    def held(self) -> Held:
        """Of all of its processes together."""
        pids = [self.process.pid, *children(self.process.pid)]
        return Held(
            sum(_status(pid, "VmRSS") for pid in pids) / 1024,
            sum(_count(Path(f"/proc/{pid}/fd")) for pid in pids),
            sum(_count(Path(f"/proc/{pid}/task")) for pid in pids),
        )

    def settled(self, seconds: float = 1.5) -> Held:
        """The least of a moment: what runs for an instant is not held."""
        until, found = time.monotonic() + seconds, [self.held()]
        while time.monotonic() < until:
            time.sleep(0.1)
            found.append(self.held())
        return Held(
            min(each.rss_mib for each in found),
            min(each.files for each in found),
            min(each.threads for each in found),
        )

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body over a new connection, which may lead to any worker."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def is_ready(self) -> bool:
        """Whether whoever answers now is ready."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/readyz")[0] == 200
        return False

    def wait_ready(self) -> None:
        """Wait until every worker is ready; each says so for itself alone."""
        looks = 8 * self.workers if self.workers else 1
        wait_until(lambda: all(self.is_ready() for _ in range(looks)), "ready", READY_S, self)

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def wait_log(self, words: str, *, after: int = 0, timeout_s: float = 60.0) -> None:
        """Wait until the log has these words behind its first ``after`` characters."""
        wait_until(lambda: words in self.text()[after:], f"{words!r} in the log", timeout_s, self)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and wait; returns its exit status."""
        if self.exited is None:
            self.process.send_signal(number)
            self.exited = self.process.wait(_STOP_S)
        return self.exited

    def check_alive(self) -> None:
        """Fail where it has ended."""
        status = self.process.poll()
        assert status is None, f"the service ended with status {status}: {self.text()[-600:]}"


@dataclass
class Way:
    """How a service is started.

    Attributes:
        environment: Besides that of this process.
        prepare: Called in the new process before it becomes the service.
        stderr: Where it writes; None: into a file.
        prefix: Words before the command.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    stderr: IO[bytes] | int | None = None
    prefix: Sequence[str] = ()


def command(*arguments: str) -> list[str]:
    """``adaresnet`` with these arguments, by the Python that runs this."""
    return [sys.executable, "-c", _COMMAND, *arguments]


@contextlib.contextmanager
def serving(
    models: Path, folder: Path, *flags: str, port: int, workers: int = 0, way: Way | None = None
) -> Iterator[Service]:
    """Start a service over a repository, wait until it is ready, and end it."""
    way = way or Way()
    log = folder / f"server-{port}.log"
    arguments = ["serve", "--models", str(models), "--port", str(port), *flags]
    if workers:
        arguments += ["--workers", str(workers)]
    inherited = {key: value for key, value in os.environ.items() if "ADARESNET_" not in key}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*way.prefix, *command(*arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if way.stderr is None else way.stderr,
            env={**inherited, **way.environment},
            preexec_fn=way.prepare,
        )
    service = Service(process, port, log, workers)
    try:
        service.wait_ready()
        yield service
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    workers = children(process.pid)
    for pid in (*workers, process.pid):
        _tell(pid, signal.SIGCONT)  # it may have been stopped
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in workers:
        if Path(f"/proc/{pid}").exists() and parent_of(pid) in (1, process.pid):
            _tell(pid, signal.SIGKILL)


def wait_until(
    reached: Callable[[], bool],
    what: str,
    timeout_s: float = 30.0,
    service: Service | None = None,
) -> None:
    """Wait, but not for ever."""
    until = time.monotonic() + timeout_s
    while not reached():
        if service is not None:
            service.check_alive()
        assert time.monotonic() < until, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.05)


def children(pid: int) -> set[int]:
    """Processes that one has started, those that try model files excepted."""
    return {child for child in _all_children(pid) if not _tries(child)}


def probes(pid: int) -> set[int]:
    """Processes below one that try model files, those that they have forked included."""
    found: set[int] = set()
    for child in _all_children(pid):
        if _tries(child):
            found |= {child, *_all_children(child)}
        else:
            found |= probes(child)
    return found


def parent_of(pid: int) -> int:
    """The number of a process's parent; 0 where it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _all_children(pid: int) -> set[int]:
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return {number for number in numbers if parent_of(number) == pid}


def _tries(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return _PROBE in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _tell(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _status(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


def _count(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in folder.iterdir())
    return 0

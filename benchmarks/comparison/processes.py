"""Start a server with everything it spawns, measure that whole tree, and end all of it.

Servers fork workers, and some daemons move into sessions of their own. This process adopts whatever
loses its parent, so the tree of a server is simply every descendant of this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_S = 10.0
_LINGER_S = 1.0
_PORTS = 5
_TAIL_BYTES = 2000


class ServerError(Exception):
    """A server could not be started, or answered wrongly; the message is for the report."""


@dataclass(frozen=True)
class Memory:
    """Of a whole tree: RSS counts what processes share once each, PSS once altogether."""

    rss_bytes: int
    pss_bytes: int


class Server:
    """A running server: its tree of processes, its folder and its port."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, port: int) -> None:
        """Take over a started process."""
        self.process = process
        self.folder = folder
        self.port = port
        self.started_at = time.perf_counter()

    def check_alive(self) -> None:
        """Raise ServerError where the main process has ended, with what it said last."""
        if self.process.poll() is not None:
            raise ServerError(f"ended with status {self.process.returncode}: {self.log_tail()}")

    def log_tail(self) -> str:
        """The end of what it wrote, in one line."""
        text = (self.folder / "log").read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


@contextlib.contextmanager
def running(
    command: Sequence[str], environ: Mapping[str, str], folder: Path, port: int
) -> Iterator[Server]:
    """Run a server in a folder of its own, with its log there; end its whole tree afterwards."""
    _adopt_orphans()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environ},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(process, folder, port)
    finally:
        _end(process)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder with a short name, since sockets in it may have names of 107 letters at most."""
    folder = Path(tempfile.mkdtemp(prefix="b-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on, nor on the next four: some servers listen on several."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port: int = listener.getsockname()[1]
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            for following in range(port, port + _PORTS):
                stack.enter_context(socket.create_server(("127.0.0.1", following)))
            return port


def descendants(root: int) -> list[int]:
    """Processes below this one, zombies included."""
    children: dict[int, list[int]] = {}
    for pid, fields in _all_stats():
        children.setdefault(int(fields[1]), []).append(pid)
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def cpu_seconds() -> float:
    """User and system time so far of every process below this one, and of what they reaped."""
    tree = set(descendants(os.getpid()))
    ticks = sum(sum(map(int, fields[11:15])) for pid, fields in _all_stats() if pid in tree)
    return ticks / _TICKS


def machine_seconds() -> float:
    """CPU time so far of everything on this machine."""
    first = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _idle, _wait, interrupts, soft, *_ = map(int, first.split()[1:])
    return (user + nice + system + interrupts + soft) / _TICKS


def memory() -> Memory:
    """Of every process below this one."""
    rss = pss = 0
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):  # it may end while it is looked at
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Rss:"):
                    rss += int(line.split()[1]) * 1024
                elif line.startswith("Pss:"):
                    pss += int(line.split()[1]) * 1024
    return Memory(rss, pss)


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    """Each process's number and the fields of its stat line behind its name: state, parent, ..."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                text = (entry / "stat").read_text()
                yield int(entry.name), text.rpartition(")")[2].split()


def _adopt_orphans() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, then end every process below this one, whoever presses Ctrl-C again."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _end_tree(process)
    finally:
        signal.signal(signal.SIGINT, interrupt)


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    # Like Ctrl-C, which every server knows: it tidies up its shared memory. What stays is asked
    # once more and then ended.
    _signal([process.pid], signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    for number, seconds in ((None, _LINGER_S), (signal.SIGTERM, _LINGER_S), (signal.SIGKILL, 10.0)):
        if number is not None:
            _signal(descendants(os.getpid()), number)
        if _gone(process, seconds):
            return


def _gone(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until nothing is below this process; reap what was adopted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process.poll()
        left = descendants(os.getpid())
        if not left:
            return True
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)
    return False


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

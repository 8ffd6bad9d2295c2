"""What a service holds: memory, threads and open files of it and its workers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    rss_mib: float
    threads: int
    files: int


def held(pid: int) -> Held:
    """Of a process and its children, those that try model files excepted."""
    pids = [pid, *_children(pid)]
    return Held(
        rss_mib=sum(_status(one, "VmRSS") for one in pids) / 1024,
        threads=sum(_status(one, "Threads") for one in pids),
        files=sum(_files(one) for one in pids),
    )


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if (
                parent == pid
                and b"service.engine.probe" not in (stat.parent / "cmdline").read_bytes()
            ):
                found.append(int(stat.parent.name))
    return found


def _status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def _files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())

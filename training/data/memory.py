"""How much memory there is, and how much of it decoded pictures may take."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_UNKNOWN = 4 << 30


def default_limit_bytes() -> int:
    """Half of the memory that is free now, to this machine and to this container."""
    free = free_host_bytes()
    return (_UNKNOWN if free is None else free) // 2


def free_host_bytes() -> int | None:
    """Memory that a process may take, bytes; None where the system doesn't say."""
    found = [free for free in (_free_on_machine(), _free_in_container()) if free is not None]
    return min(found) if found else None


def _free_on_machine() -> int | None:
    if (available := _number(_MEMINFO, "MemAvailable:")) is not None:
        return available * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_in_container() -> int | None:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return None
    # What files are read into is given back when it is needed.
    cache = _number(_CGROUP / "memory.stat", "inactive_file") or 0
    return max(0, limit - used + cache)


def _number(path: Path, name: str) -> int | None:
    """The number behind a name, which a line of a file begins with."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(row[1]) for row in rows if row[:1] == [name] and row[1:]), None)

"""CPUs, memory, open files and disk, as the service may use them in its container."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.doctor.findings import Finding
from service.engine.session import available_cpus
from service.open_files import OTHER_FILES, open_file_limits, possible_connections

_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_LITTLE_MEMORY = 512 * 2**20
_LITTLE_DISK = 64 * 2**20


def examine_machine(
    workers: int, max_connections: int, cgroup: Path = _CGROUP
) -> Iterator[Finding]:
    """Look at the machine.

    Args:
        workers: Processes that the service is to have.
        max_connections: That each of them may have.
        cgroup: Folder with the container's limits (cgroup v2).
    """
    yield _cpus(workers, cgroup)
    yield _memory(workers, cgroup)
    yield _open_files(max_connections)
    yield _temporary_folder()


def _cpus(workers: int, cgroup: Path) -> Finding:
    machine, may_use = os.cpu_count() or 1, available_cpus()
    quota = _read(cgroup / "cpu.max")
    found = f"{may_use} of {machine} CPUs may be used"
    if quota and not quota.startswith("max"):
        limit, period = quota.split()[:2]
        found += f"; the container's quota is {int(limit) / int(period):g}"
    found += f"; {max(1, may_use // workers)} a worker, {workers} in all" if workers > 1 else ""
    if workers > may_use:
        return Finding(
            "CPUs",
            "warning",
            found + ".",
            f"Use at most {may_use} workers: more only take each other's CPUs.",
        )
    return Finding("CPUs", "ok", found + ".")


def _memory(workers: int, cgroup: Path) -> Finding:
    if not hasattr(os, "sysconf"):  # Windows
        return Finding("memory", "ok", "This system doesn't say how much there is.")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{total / _GIB:.1f} GiB"
    free = _number(Path("/proc/meminfo"), "MemAvailable:") * 1024 or total
    limit = _read(cgroup / "memory.max")
    if limit.isdecimal():
        used = int(_read(cgroup / "memory.current") or 0)
        # Of files that were read once and that nobody uses; the kernel takes it back when it is
        # needed.
        idle_cache = _number(cgroup / "memory.stat", "inactive_file")
        free = min(free, int(limit) - max(0, used - idle_cache))
        found += f", the container's limit is {int(limit) / _GIB:.1f} GiB"
    found += f", {free / _GIB:.1f} GiB free."
    if free < _LITTLE_MEMORY * workers:
        return Finding(
            "memory",
            "warning",
            found,
            f"Allow {_LITTLE_MEMORY // 2**20} MiB a worker at least, or lower max_pixel_bytes and"
            " max_buffer_bytes.",
        )
    return Finding("memory", "ok", found)


def _open_files(max_connections: int) -> Finding:
    limits = open_file_limits()
    if limits is None:
        return Finding("open files", "ok", "This system doesn't say how many may be open.")
    soft, hard = ("any number" if math.isinf(limit) else f"{limit}" for limit in limits)
    found = f"{soft} may be open at once; where it must, the service raises that up to {hard}."
    possible = possible_connections(max_connections)
    if possible < max_connections:
        return Finding(
            "open files",
            "warning",
            f"{found} max_connections would be {possible} instead of {max_connections}.",
            f"Raise the hard limit to {max_connections + OTHER_FILES} (ulimit -Hn, LimitNOFILE of"
            f" systemd, --ulimit nofile of Docker), or set --max-connections {possible}.",
        )
    return Finding("open files", "ok", found)


def _temporary_folder() -> Finding:
    try:
        folder = tempfile.gettempdir()
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x")
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(
            "temporary folder",
            "problem",
            f"It can't be written: {error.strerror or error}.",
            "Set TMPDIR to a folder that can (in a container, mount a tmpfs at /tmp): several"
            " workers share their metrics there.",
        )
    found = f"{folder}, {free / _GIB:.1f} GiB free."
    if free < _LITTLE_DISK:
        return Finding("temporary folder", "warning", found, "Make room there, or set TMPDIR.")
    return Finding("temporary folder", "ok", found)


def _number(path: Path, name: str) -> int:
    """The number behind a name in a file of lines; 0 where there is none."""
    for line in _read(path).splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

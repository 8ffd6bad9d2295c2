"""CPUs, memory, open files and disk, as the service may use them in its container."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.doctor.findings import Finding
from service.engine.session import available_cpus

_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_FEW_OPEN_FILES = 1024  # connections and model files; a busy service has some thousands
_LITTLE_MEMORY = 512 * 2**20
_LITTLE_DISK = 64 * 2**20


def examine_machine(workers: int) -> Iterator[Finding]:
    """Look at the machine.

    Args:
        workers: Processes that the service is to have.
    """
    yield _cpus(workers)
    yield _memory(workers)
    yield _open_files()
    yield _temporary_folder()


def _cpus(workers: int) -> Finding:
    machine, may_use = os.cpu_count() or 1, available_cpus()
    quota = _read(_CGROUP / "cpu.max")
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


def _memory(workers: int) -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{total / _GIB:.1f} GiB"
    free = _available() or total
    limit = _read(_CGROUP / "memory.max")
    if limit.isdecimal():
        used = int(_read(_CGROUP / "memory.current") or 0)
        free = min(free, int(limit) - used)
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


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} may be open at once (hard limit {hard})."
    if 0 <= soft < _FEW_OPEN_FILES:
        return Finding(
            "open files", "warning", found, f"Raise the limit: ulimit -n {_FEW_OPEN_FILES * 16}."
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


def _available() -> int:
    for line in _read(Path("/proc/meminfo")).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

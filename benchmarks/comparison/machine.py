"""What the report says of the machine and of the programs that were run."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

from comparison.processes import machine_seconds

_GIB = 2**30


def describe_machine() -> str:
    """Processor, cores, memory and kernel, one line."""
    info = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    return (
        f"{names[0] if names else platform.machine()}{_extensions(info)},"
        f" {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB,"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def busy_cores(seconds: float = 1.0) -> float:
    """Cores that are busy now, before anything was started."""
    before, started = machine_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (machine_seconds() - before) / (time.perf_counter() - started)


def wrk_version(program: str) -> str:
    """As wrk says it, short."""
    # It prints its version with its usage, and ends with a status of failure.
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    words = (done.stdout + done.stderr).split()
    return words[1].removeprefix("debian/") if len(words) > 1 else "unknown"


def _extensions(info: str) -> str:
    flags = next((line.split() for line in info.splitlines() if line.startswith("flags")), [])
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "bfloat16"}
    found = [name for flag, name in known.items() if flag in flags]
    return f" ({', '.join(found)})" if found else ""

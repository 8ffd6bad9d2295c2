"""What machine and which versions measurements are of."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

_RUNTIMES = ("onnxruntime-gpu", "onnxruntime")


def describe_machine(cpus: int) -> str:
    """Processor, CPUs that may be used, memory and system, one line."""
    known = [_cpu_model(), f"{cpus} CPUs"]
    if hasattr(os, "sysconf"):  # not on Windows
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        known.append(f"{memory_gib:.1f} GiB")
    return ", ".join([*known, f"{platform.system()} {platform.release()}"])


def describe_versions() -> str:
    """Of the service, ONNX Runtime and Python, one line."""
    found = [f"adaresnet {metadata.version('adaresnet')}"]
    for name in _RUNTIMES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join([*found, f"Python {platform.python_version()}"])


def _cpu_model() -> str:
    listed = Path("/proc/cpuinfo")  # of Linux
    for line in listed.read_text().splitlines() if listed.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":  # ARM's have none
            return value.strip()
    return platform.machine()

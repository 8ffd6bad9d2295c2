"""What machine and which versions measurements are of."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

_RUNTIMES = ("onnxruntime-gpu", "onnxruntime")


def describe_machine(cpus: int) -> str:
    """Processor, CPUs that may be used, memory and system, one line."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_cpu_model()}, {cpus} CPUs, {memory_gib:.1f} GiB, {platform.system()}"
        f" {platform.release()}"
    )


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
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":  # ARM's have none
            return value.strip()
    return platform.machine()

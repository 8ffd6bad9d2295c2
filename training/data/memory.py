"""How much memory decoded pictures may take."""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNKNOWN = 4 << 30


def default_limit_bytes() -> int:
    """Half of the memory that is free now, to this machine and to this container."""
    return min(_free_on_machine(), _free_in_container()) // 2


def _free_on_machine() -> int:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if found is not None:
            return int(found[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return _UNKNOWN


def _free_in_container() -> int:
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return max(0, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return 1 << 62

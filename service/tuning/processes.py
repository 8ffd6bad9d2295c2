"""What a process and all that it has started use, memory and CPU time, from ``/proc``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_PARENT, _FIRST_TIME, _RSS_PAGES = 1, 11, 21  # fields of a stat line behind the process's name


def family(root: int) -> dict[int, list[str]]:
    """A process and everything below it: the fields of their stat lines, by their ids."""
    stats = dict(_all_stats())
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[_PARENT]), []).append(pid)
    found, waiting = dict[int, list[str]](), [root]
    while waiting:
        pid = waiting.pop()
        if pid in stats:
            found[pid] = stats[pid]
        waiting += children.get(pid, [])
    return found


def rss_bytes(root: int) -> int:
    """Resident memory of all of them; what they share counts once for each."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(fields[_RSS_PAGES]) for fields in family(root).values()) * page


def pss_bytes(root: int) -> int | None:
    """Likewise, but what they share counts once; None where the system does not say."""
    total = 0
    for pid in family(root):
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except ProcessLookupError:
            continue
        except OSError:  # an old kernel, or a hardened one
            return None
        total += sum(
            int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")
        )
    return total


def cpu_s(root: int) -> float:
    """User and system time so far of all of them, and of those below that have ended."""
    ticks = sum(
        sum(map(int, fields[_FIRST_TIME : _FIRST_TIME + 4])) for fields in family(root).values()
    )
    return ticks / os.sysconf("SC_CLK_TCK")


def machine_cpu_s() -> float:
    """CPU time so far of everything on this machine."""
    first = (PROC / "stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _wait, interrupts, soft, *_ = map(int, first.split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                text = (entry / "stat").read_text()
                yield int(entry.name), text.rpartition(")")[2].split()

"""Give memory back to the system that the C library keeps, where it is glibc."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8


def share_arenas(count: int) -> None:
    """Let all threads allocate from so many arenas; eight a CPU is glibc's default.

    Each keeps what was freed in it, and a model is loaded in whichever the thread came to.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, count)


def release() -> None:
    """Give back what is free in any arena; takes some milliseconds."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)

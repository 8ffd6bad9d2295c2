"""Ctrl-C and SIGTERM at moments when a process would be left behind for them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a stop wait until the end of the block; in the main thread only.

    Raises:
        KeyboardInterrupt: There was one.
    """
    found: list[int] = []
    before = [signal.signal(stop, lambda number, _: found.append(number)) for stop in _STOPS]
    try:
        yield
    finally:
        for stop, handler in zip(_STOPS, before, strict=True):
            signal.signal(stop, handler)
    if found:
        raise KeyboardInterrupt

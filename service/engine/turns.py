"""Let processes that share a folder do something one after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where there are no other processes either
    fcntl = None  # type: ignore[assignment]

_PATIENCE_S = 10.0
_LOOK_S = 0.02


@contextlib.contextmanager
def own_turn(file: Path | None, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Hold the lock of a file while the context lasts; it ends with the process, too.

    It is a courtesy: whoever has waited for so long, or can't lock, goes on without.

    Args:
        file: Made where it is not there; None: there is nobody else.
        patience_s: Seconds.
    """
    if file is None or fcntl is None:
        yield
        return
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            lock = held.enter_context(file.open("ab"))
            until_s = time.monotonic() + patience_s
            while not _taken(lock.fileno()) and time.monotonic() < until_s:
                time.sleep(_LOOK_S)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

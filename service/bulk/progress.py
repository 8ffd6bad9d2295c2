"""How far a long job is, in one line of a terminal."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterable
from typing import TextIO

_FIRST_LOOK_S, _PAUSE_S = 0.5, 0.1


class Progress:
    """Counts images, and shows so where ``stream`` is a terminal.

    Attributes:
        done: Images that are over.
        failed: Those of them that could not be classified.
    """

    def __init__(self, *, shown: bool, stream: TextIO | None = None) -> None:
        """Start the clock; short jobs show nothing."""
        self.done = self.failed = 0
        self._shown = shown
        self._stream = stream or sys.stderr
        self._started_s = time.monotonic()
        self._next_s = self._started_s + _FIRST_LOOK_S
        self._total: int | None = None
        self._drawn = False

    def count(self, paths: Iterable[str]) -> None:
        """Count the images of the whole job on the side, so that the time left can be told."""
        if self._shown:
            threading.Thread(target=self._count, args=(paths,), daemon=True).start()

    def advance(self, *, failed: bool) -> None:
        """One more is over."""
        self.done += 1
        self.failed += failed
        if self._shown and time.monotonic() >= self._next_s:
            self._draw()

    def say(self, line: str) -> None:
        """Print a line above."""
        self.clear()
        print(line, file=self._stream)

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def summary(self) -> str:
        """What was done, in one line."""
        took_s = self._took_s()
        return (
            f"{self.done:,} images, {self.failed:,} failed, in {_clock(took_s)}"
            f" ({self.done / took_s:,.0f} images/s)"
        )

    def line(self) -> str:
        """How far it is, and how long it will take."""
        rate = self.done / self._took_s()
        parts = [f"{self.done:,}"]
        if self._total:
            parts = [f"{self.done:,} of {self._total:,} ({self.done / self._total:.0%})"]
        parts += [f"{rate:,.0f} images/s", f"{self.failed:,} failed"]
        if self._total and rate:
            parts.append(f"{_clock(max(0, self._total - self.done) / rate)} left")
        return ", ".join(parts)

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._drawn = True  # first: Ctrl-C may come while it is written
        self._stream.write(f"\r\x1b[K{self.line()[:width]}")
        self._stream.flush()
        self._next_s = time.monotonic() + _PAUSE_S

    def _took_s(self) -> float:
        return max(time.monotonic() - self._started_s, 1e-3)

    def _count(self, paths: Iterable[str]) -> None:
        self._total = sum(1 for _ in paths)


def _clock(seconds: float) -> str:
    """Seconds as people read them: 3.2 s, 4:05, 1:02:03."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

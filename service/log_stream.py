"""Where log lines go on their way to standard error, so that nobody waits for who reads them.

A pipe whose reader has stopped reading, and a disk that hangs, hold up whoever writes. That must
not be the thread that answers: lines are kept and written by a thread of their own. What there is
no room for is dropped, and counted in a line once the way is free again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque

_MAX_KEPT_CHARS = 1_000_000
_BLOCK_CHARS = 32_768
_AGAIN_S = 0.02
_LAST_S = 1.0  # so long the end of the process waits for lines that are not written yet
_logger = logging.getLogger(__name__)


class LogStream:
    """A text stream for ``logging.StreamHandler`` that never blocks its writers."""

    def __init__(self, descriptor: int, *, max_kept_chars: int = _MAX_KEPT_CHARS) -> None:
        """Write to a file descriptor, which stays the caller's.

        Args:
            descriptor: Open for writing.
            max_kept_chars: Characters that may wait to be written.
        """
        self._descriptor = descriptor
        self._max_kept_chars = max_kept_chars
        self._begin()
        if hasattr(os, "register_at_fork"):
            # The thread does not live on in a child, and what is kept is the parent's to write.
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._kept: deque[str] = deque()
        self._chars = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Take whole lines, to be written soon."""
        with self._changed:
            if self._chars + len(text) > self._max_kept_chars:
                self._dropped += text.count("\n")
            else:
                self._kept.append(text)
                self._chars += len(text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
                self._thread.start()
            self._changed.notify()
        return len(text)

    def flush(self) -> None:
        """Nothing: a flush would wait."""

    def finish(self, timeout_s: float = _LAST_S) -> None:
        """Wait until everything is written, but not for ever."""
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while self._chars and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _write_on(self) -> None:
        while True:
            with self._changed:
                while not self._kept and not self._dropped:
                    self._changed.wait()
                block = ""
                while self._kept and len(block) < _BLOCK_CHARS:
                    block += self._kept.popleft()
                dropped, self._dropped = self._dropped, 0
            _write(self._descriptor, block.encode(errors="backslashreplace"))
            with self._changed:
                self._chars = sum(map(len, self._kept))
                self._changed.notify_all()
            if dropped:
                _logger.warning("%d lines of the log were dropped: nobody took them", dropped)


class LogHandler(logging.StreamHandler[LogStream]):
    """Writes to standard error without ever waiting for it; ``close`` waits a moment."""

    def __init__(self) -> None:
        """Begin; where there is no standard error, lines go nowhere."""
        try:
            descriptor = sys.stderr.fileno()
        except (AttributeError, OSError, ValueError):  # closed, or not a file
            descriptor = os.open(os.devnull, os.O_WRONLY)
        super().__init__(LogStream(descriptor))

    def close(self) -> None:
        """Let lines be written that are not yet."""
        self.stream.finish()
        super().close()


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it; where that fails, as on a full disk or a closed pipe, the rest is lost."""
    try:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # somebody has told the other end not to wait
                time.sleep(_AGAIN_S)
    except OSError:
        return

"""How long the metrics of model versions that are gone are kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable

Version = tuple[str, str]  # model, version

# Long enough for every scraper to have read the last of them.
_KEEP_S = 3600.0
_MAX_GONE = 100


class Retention:
    """Remembers which versions have gone, and when. Safe to call from several threads.

    Attributes:
        forgotten: Those that are gone for an hour, and the oldest where more than a hundred are.
    """

    def __init__(self) -> None:
        """None has."""
        self.forgotten: set[Version] = set()
        self._present: set[Version] = set()
        self._gone_s: dict[Version, float] = {}
        self._lock = threading.Lock()

    def update(self, present: Iterable[Version], now_s: float) -> set[Version]:
        """Take note of the versions that are there now.

        Returns:
            Those that are forgotten from now on.
        """
        with self._lock:
            before, self._present = self._present, set(present)
            self.forgotten = self.forgotten - self._present
            for version in self._present:
                self._gone_s.pop(version, None)
            for version in before - self._present:
                self._gone_s[version] = now_s
            oldest_first = sorted(self._gone_s, key=lambda version: self._gone_s[version])
            old = {version for version in oldest_first if now_s - self._gone_s[version] >= _KEEP_S}
            old.update(oldest_first[: max(0, len(oldest_first) - _MAX_GONE)])
            for version in old:
                del self._gone_s[version]
            self.forgotten = self.forgotten | old
            return old

    def find(self, versions: Iterable[Version], now_s: float) -> None:
        """Take note of versions that have series: some may have gone before this process began."""
        with self._lock:
            for version in set(versions) - self._present - self.forgotten:
                self._gone_s.setdefault(version, now_s)

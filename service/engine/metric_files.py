"""The files in which workers keep their metrics, where the disk is full or a file is damaged.

``prometheus_client`` maps its files into memory and lets them grow with holes in them. To write
into a hole of a full disk ends the process (SIGBUS), and a damaged file is an error to whoever
reads it. Counting must not cost answers: room is reserved before it is used, and where there is
none a worker goes on counting for itself alone. Files that can't be read are left out.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

_FIRST_BYTES = 1 << 16
_HEAD_BYTES, _VALUE_BYTES = 8, 16
_LONGEST_KEY_BYTES = 1 << 16
_LENGTH = struct.Struct("i")
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # by the file system
_logger = logging.getLogger(__name__)


class ReservedFile(MmapedDict):
    """A worker's file of values, every byte of which has its place on the disk."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        """Open a file, or start one."""
        self._path, self._shared = Path(filename), True
        try:
            if not _is_sound(self._path) or not self._opened(read_mode):
                _logger.error("the metrics file %s is damaged and begun anew", self._path.name)
                self._path.unlink(missing_ok=True)
                self._opened(read_mode)
        except OSError as error:
            self._f = None  # type: ignore[assignment]  # as when it is closed
            self._positions: dict[str, int] = {}
            self._used = _HEAD_BYTES
            self._count_alone(_FIRST_BYTES, b"", error)

    def _opened(self, read_mode: bool) -> bool:
        with self._path.open("ab") as file:
            _reserve(file.fileno(), max(_FIRST_BYTES, self._path.stat().st_size))
        try:
            super().__init__(str(self._path), read_mode)  # type: ignore[no-untyped-call]
        except (ValueError, RuntimeError, struct.error):
            return False
        return True

    def _init_value(self, key: str) -> None:
        # As much as a new value takes at most, so that the library never has to make room.
        needed = self._used + len(key.encode()) + _HEAD_BYTES + 2 * _VALUE_BYTES
        if needed > self._capacity:
            capacity = self._capacity * 2
            while capacity < needed:
                capacity *= 2
            self._grow(capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, capacity: int) -> None:
        if self._shared and self._f is not None:
            try:
                _reserve(self._f.fileno(), capacity)
                self._m = mmap.mmap(self._f.fileno(), capacity)
            except OSError as error:
                self._count_alone(capacity, self._m[: self._used], error)
            else:
                self._capacity = capacity
        else:
            self._remember(capacity, self._m[: self._used])

    def _count_alone(self, capacity: int, content: bytes, error: OSError) -> None:
        self._shared = False
        _logger.error(
            "no room for the metrics file %s (%s): what this worker counts from now on is not in"
            " the totals",
            self._path.name,
            error.strerror,
        )
        self._remember(capacity, content)

    def _remember(self, capacity: int, content: bytes) -> None:
        self._m = mmap.mmap(-1, capacity)
        self._m[: len(content)] = content
        self._capacity = capacity

    def close(self) -> None:
        """Let go of the file."""
        if self._f is not None:
            super().close()  # type: ignore[no-untyped-call]


class SoundFiles(Collector):
    """Adds up the files of all workers that can be read."""

    def __init__(self, folder: Path) -> None:
        """Read the files of a folder whenever somebody asks."""
        self._folder = folder
        self._damaged: set[Path] = set()

    def collect(self) -> Iterable[Metric]:
        """The totals."""
        files = sorted(self._folder.glob("*.db"))
        damaged = {file for file in files if not _is_sound(file)}
        try:
            found = self._totals(set(files) - damaged)
        except Exception:  # whatever damage there may be
            damaged |= {file for file in files if not self._adds_up(file)}
            found = self._totals(set(files) - damaged)
        for file in damaged - self._damaged:
            _logger.error("the metrics file %s is damaged and left out", file.name)
        self._damaged = damaged
        return found

    def _totals(self, files: Iterable[Path]) -> Iterable[Metric]:
        totals: Iterable[Metric] = MultiProcessCollector.merge(  # type: ignore[no-untyped-call]
            sorted(map(str, files)), accumulate=True
        )
        return totals

    def _adds_up(self, file: Path) -> bool:
        try:
            self._totals([file])
        except Exception:
            return False
        return True


def keep_values(worker: int) -> Any:
    """The class of values that a worker keeps in its files, by the worker's number."""
    values.MmapedDict = ReservedFile  # type: ignore[attr-defined]
    return values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]


def _reserve(descriptor: int, size: int) -> None:
    """Make a file at least so large, on the disk and not only by name.

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
        else:
            return
    os.ftruncate(descriptor, size)


def _is_sound(path: Path) -> bool:
    """Whether a file can be walked through from end to end; one that isn't there can."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if not data:
        return True
    if len(data) < _HEAD_BYTES:
        return False
    used = _LENGTH.unpack_from(data, 0)[0]
    at = _HEAD_BYTES
    while at < used:
        if at + _LENGTH.size > len(data):
            return False
        length = _LENGTH.unpack_from(data, at)[0]
        if not 0 < length <= _LONGEST_KEY_BYTES:
            return False
        padded = length + 8 - (length + _LENGTH.size) % 8
        at += _LENGTH.size + padded + _VALUE_BYTES
    return bool(used == 0 or at == used <= len(data))

"""The model repository: ``<root>/<name>/<version>/model.onnx``, watched while serving.

A version is ready once it is loaded and its golden images came out right on the device that
serves. Readers see one immutable catalog; a refresh builds the next one and swaps it in. A request
keeps the version that it began with, so nothing is dropped when a version is replaced or removed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from service.engine.batcher import Batcher, BatcherOptions
from service.engine.errors import (
    DeviceError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServiceError,
    VersionNotFoundError,
)
from service.engine.golden import replay_golden_images
from service.engine.session import Session, SessionOptions

MODEL_FILE = "model.onnx"
_logger = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]  # inode, size, mtime: changes whenever the file does


@dataclass(frozen=True)
class ReadyVersion:
    """A version that answers.

    Attributes:
        name: The model's name.
        version: Its number.
        digest: SHA-256 of the file, hex.
        session: The loaded file.
        batcher: The way in.
        golden_difference: Largest logit difference on the golden images; None without any.
    """

    name: str
    version: int
    digest: str
    session: Session
    batcher: Batcher
    golden_difference: float | None


@dataclass(frozen=True)
class Entry:
    """One version of one model: ready, or why not.

    It is both when a changed file can't be loaded and the one before goes on serving.
    """

    stamp: _Stamp
    ready: ReadyVersion | None
    error: ServiceError | None


Catalog = Mapping[str, Mapping[int, Entry]]


class ModelRepository:
    """Loads, holds and swaps model versions."""

    def __init__(
        self, root: Path, sessions: SessionOptions, pool: Executor, batching: BatcherOptions
    ) -> None:
        """Serve the folder ``root``; nothing is loaded before ``refresh``."""
        self.root = root
        self._sessions = sessions
        self._pool = pool
        self._batching = batching
        self.catalog: Catalog = {}
        self._required: frozenset[str] | None = None

    def refresh(self) -> None:
        """Load what is new or changed, let go of what is gone. Blocks; call it in a thread.

        A version that can't be loaded is logged and kept in the catalog with its error.

        Raises:
            DeviceError: The demanded device can't be used.
        """
        old = self.catalog
        new: dict[str, dict[int, Entry]] = {}
        for name, version, path in _scan(self.root):
            before = old.get(name, {}).get(version)
            entry = self._entry(name, version, path, before)
            if entry is not None:
                new.setdefault(name, {})[version] = entry
        for name, versions in old.items():
            for version in versions.keys() - new.get(name, {}).keys():
                _logger.info("model %s version %d is gone", name, version)
        self.catalog = new
        if self._required is None:
            self._required = frozenset(new)

    @property
    def ready(self) -> bool:
        """At least one model answers, and so does every one that was there at the start."""
        if not self._required:
            return any(_ready_versions(versions) for versions in self.catalog.values())
        present = self._required & self.catalog.keys()
        return bool(present) and all(_ready_versions(self.catalog[name]) for name in present)

    def find(self, name: str | None, version: int | None, default: str | None) -> ReadyVersion:
        """Choose the version that answers a request.

        Args:
            name: Wanted model; None takes ``default``, else the first by name.
            version: Wanted version; None takes the highest that is ready.
            default: Configured default model.

        Raises:
            ModelNotFoundError: No such model.
            VersionNotFoundError: No such version of it.
            ModelNotReadyError: It is there but can't answer.
        """
        catalog = self.catalog
        name = name if name is not None else default or min(catalog, default=None)
        if name is None:
            raise ModelNotReadyError(
                "No model is loaded.", hint=f"Put one at <name>/<version>/{MODEL_FILE}."
            )
        versions = self.versions(name)
        ready = _ready_versions(versions)
        if version is not None and version not in versions:
            raise VersionNotFoundError(
                f"Model {name!r} has no version {version}.",
                hint=f"Its versions are {', '.join(map(str, sorted(versions)))}.",
            )
        chosen = ready.get(max(ready, default=0) if version is None else version)
        if chosen is None:
            raise ModelNotReadyError(
                f"Model {name!r} has no version that can answer."
                if version is None
                else f"Version {version} of model {name!r} can't answer.",
                hint=f"GET /v1/models/{name} says why.",
            )
        return chosen

    def versions(self, name: str) -> Mapping[int, Entry]:
        """Every version of a model.

        Raises:
            ModelNotFoundError: No such model.
        """
        catalog = self.catalog
        if name not in catalog:
            raise ModelNotFoundError(
                f"No model is named {name!r}.",
                hint=f"There are: {', '.join(sorted(catalog)) or 'none'}.",
            )
        return catalog[name]

    def _entry(self, name: str, version: int, path: Path, before: Entry | None) -> Entry | None:
        try:
            stat = path.stat()
        except OSError:
            return None  # removed since the scan
        stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if before is not None and before.stamp == stamp:
            return before
        try:
            ready = self._load(name, version, path)
        except DeviceError:
            raise
        except ServiceError as error:
            _logger.error("model %s version %d is not served: %s", name, version, error.detail)
            return Entry(stamp, before.ready if before else None, error)
        _logger.info("model %s version %d is ready on %s", name, version, ready.session.provider)
        return Entry(stamp, ready, None)

    def _load(self, name: str, version: int, path: Path) -> ReadyVersion:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelLoadError(
                f"The file can't be read: {error.strerror}.", hint="Check its permissions."
            ) from error
        session = Session(data, self._sessions)
        difference = replay_golden_images(session)
        return ReadyVersion(
            name=name,
            version=version,
            digest=hashlib.sha256(data).hexdigest(),
            session=session,
            batcher=Batcher(name, session.run, self._pool, self._batching),
            golden_difference=difference,
        )


def _ready_versions(versions: Mapping[int, Entry]) -> dict[int, ReadyVersion]:
    return {number: e.ready for number, e in versions.items() if e.ready is not None}


def _scan(root: Path) -> list[tuple[str, int, Path]]:
    """Every ``<name>/<integer>/model.onnx`` under ``root``, sorted."""
    return sorted(
        (path.parent.parent.name, int(path.parent.name), path)
        for path in root.glob(f"*/*/{MODEL_FILE}")
        if path.parent.name.isascii() and path.parent.name.isdecimal()
    )

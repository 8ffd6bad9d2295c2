"""The model repository: ``<root>/<name>/<version>/model.onnx``, watched while serving.

A version is ready once it is loaded and its golden images came out right on the device that
serves. Readers see one immutable catalog; a refresh builds the next one and swaps it in. A request
keeps the version that it began with, so nothing is dropped when a version is replaced or removed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from service.engine.batcher import Batcher
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
from service.metadata import MODEL_FILE, MODEL_NAME

# What kept a file from loading may pass without the file changing: memory, open files, a device.
RETRY_S = 60.0
# A number in its one usual form, so that no two folders mean the same version.
_VERSION = re.compile(r"[1-9][0-9]{0,8}|0")
_logger = logging.getLogger(__name__)

_Stamp = tuple[int, int, int, int]  # inode, size, mtime, ctime: changes whenever the file does


@dataclass(frozen=True)
class RepositoryOptions:
    """What a repository needs to know.

    Attributes:
        root: The folder.
        default_model: Answers requests that name no model; None: the first by name.
        sessions: How files are loaded.
        max_batch_size: Images of one run.
    """

    root: Path
    default_model: str | None
    sessions: SessionOptions
    max_batch_size: int


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
    retry_at_s: float = float("inf")


Catalog = Mapping[str, Mapping[int, Entry]]


class ModelRepository:
    """Loads, holds and swaps model versions."""

    def __init__(self, options: RepositoryOptions, pool: Executor) -> None:
        """Serve a folder, with runs made in ``pool``; nothing is loaded before ``refresh``."""
        self.root = options.root
        self.catalog: Catalog = {}
        self._options = options
        self._sessions = options.sessions
        self._device_settled = False
        self._pool = pool
        self._required: frozenset[str] | None = None
        self._skipped: set[Path] = set()

    def refresh(self) -> None:
        """Load what is new or changed, let go of what is gone. Blocks; call it in a thread.

        A version that can't be loaded is logged and kept in the catalog with its error.

        Raises:
            OSError: The folder can't be read; what is loaded goes on serving.
            DeviceError: The demanded device can't be used.
        """
        old = self.catalog
        new: dict[str, dict[int, Entry]] = {}
        found, skipped, unreadable = _scan(self.root)
        for path in sorted(skipped - self._skipped):
            _logger.warning("%r is no readable <name>/<version>/%s", str(path), MODEL_FILE)
        self._skipped = skipped
        for name in unreadable & old.keys():
            new[name] = dict(old[name])  # what is loaded goes on serving
        for name, version, path in found:
            entry = self._entry(name, version, path, old.get(name, {}).get(version))
            if entry is not None:
                new.setdefault(name, {})[version] = entry
        for name, versions in old.items():
            for version in versions.keys() - new.get(name, {}).keys():
                _logger.info("model %s version %d is gone", name, version)
        self.catalog = new
        if self._required is None:
            default = self._options.default_model
            self._required = frozenset(new) | ({default} if default else set())
            if default and default not in new:
                _logger.error("the default model %r is not in %s", default, self.root)

    @property
    def obstacle(self) -> str | None:
        """What keeps the service from being ready, or None.

        Every model that was there at the start must answer, and the default, and there must be one.
        A model that was removed is no longer asked for; the default always is.
        """
        if self._required is None:
            return "models are being loaded"
        catalog, default = self.catalog, self._options.default_model
        wanted = {name for name in self._required if name in catalog or name == default}
        silent = sorted(name for name in wanted if not _ready_versions(catalog.get(name, {})))
        if silent:
            return f"can't answer: {', '.join(silent)}"
        if not any(_ready_versions(versions) for versions in catalog.values()):
            return "there is no model"
        return None

    def find(self, name: str | None, version: int | None) -> ReadyVersion:
        """Choose the version that answers a request.

        Args:
            name: Wanted model; None takes the default, else the first by name.
            version: Wanted version; None takes the highest that is ready.

        Raises:
            ModelNotFoundError: No such model.
            VersionNotFoundError: No such version of it.
            ModelNotReadyError: It is there but can't answer.
        """
        if name is None:
            name = self._options.default_model or min(self.catalog, default=None)
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
                f"No model is named {name[:100]!r}.",
                hint=f"There are: {', '.join(sorted(catalog)) or 'none'}.",
            )
        return catalog[name]

    def _entry(self, name: str, version: int, path: Path, before: Entry | None) -> Entry | None:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None  # removed since the scan
        except OSError as error:
            return before or Entry((0, 0, 0, 0), None, _unreadable(error))
        stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if before and before.stamp == stamp and time.monotonic() < before.retry_at_s:
            return before
        try:
            ready = self._load(name, version, path)
        except DeviceError:
            raise
        except Exception as error:  # whatever one file does, the others are served
            failure = error if isinstance(error, ServiceError) else _broken(error)
            _logger.error(
                "model %s version %d is not served: %s",
                name,
                version,
                failure.detail,
                exc_info=None if failure is error else error,
            )
            retry_at_s = time.monotonic() + RETRY_S
            return Entry(stamp, before.ready if before else None, failure, retry_at_s)
        _logger.info("model %s version %d is ready on %s", name, version, ready.session.provider)
        return Entry(stamp, ready, None)

    def _load(self, name: str, version: int, path: Path) -> ReadyVersion:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(error) from error
        session = self._open(data)
        return ReadyVersion(
            name=name,
            version=version,
            digest=hashlib.sha256(data).hexdigest(),
            session=session,
            golden_difference=replay_golden_images(session),
            batcher=Batcher(session.run, self._pool, self._options.max_batch_size),
        )

    def _open(self, data: bytes) -> Session:
        """Load a file on the device that the first file settled.

        A later file that fails there is that file's trouble (too large for the memory that is
        left, say): it neither ends the service nor silently goes to the CPU.
        """
        try:
            session = Session(data, self._sessions)
        except DeviceError as error:
            if self._device_settled:
                raise ModelLoadError(error.detail, hint=error.hint) from error
            raise
        self._sessions = replace(self._sessions, device=session.device)
        self._device_settled = True
        return session


def _ready_versions(versions: Mapping[int, Entry]) -> dict[int, ReadyVersion]:
    return {number: e.ready for number, e in versions.items() if e.ready is not None}


def _unreadable(error: OSError) -> ModelLoadError:
    return ModelLoadError(
        f"The file can't be read: {error.strerror}.", hint="Check its permissions."
    )


def _broken(error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"The file can't be loaded ({type(error).__name__}).",
        hint="The file is damaged; export it again.",
    )


def _scan(root: Path) -> tuple[list[tuple[str, int, Path]], set[Path], set[str]]:
    """Every ``<name>/<integer>/model.onnx`` under ``root``, sorted, and what is none of them.

    The third part names the models whose folders can't be read.
    """
    found: list[tuple[str, int, Path]] = []
    skipped: set[Path] = set()
    unreadable: set[str] = set()
    # iterdir raises where glob would find nothing: a folder that can't be read is not an empty one.
    for model in root.iterdir():
        if not model.is_dir():
            continue
        if not MODEL_NAME.fullmatch(model.name):
            skipped.add(model)
            continue
        try:
            folders = list(model.iterdir())
        except OSError:
            unreadable.add(model.name)
            continue
        for folder in folders:
            path = folder / MODEL_FILE
            if _VERSION.fullmatch(folder.name) and path.is_file():
                found.append((model.name, int(folder.name), path))
            elif not folder.name.startswith("."):  # a version that is being written
                skipped.add(folder)
    return sorted(found), skipped | {root / name for name in unreadable}, unreadable

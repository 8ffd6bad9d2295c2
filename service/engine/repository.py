"""The model repository: ``<root>/<name>/<version>/model.onnx``, watched while serving.

A version is ready once it was tried in a process of its own, is loaded, and its golden images came
out right on the device that serves. Readers see one immutable catalog; a refresh builds the next
one and swaps it in. A request keeps the version that it began with, so nothing is dropped when a
version is replaced or removed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.engine import heap
from service.engine.batcher import Batcher
from service.engine.bundle import Stamp, take_stamp, unchanged
from service.engine.errors import (
    DeviceError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServiceError,
    VersionNotFoundError,
)
from service.engine.instances import InstanceOptions, Instances
from service.engine.loading import Loader, load_failure
from service.engine.metrics import Metrics, VersionMetrics
from service.engine.scan import scan
from service.engine.session import Session
from service.engine.unloaded import Unloaded
from service.metadata import MODEL_FILE, ModelMetadata

# What kept a file from loading may pass without the file changing: memory, open files, a device.
# Each try that fails doubles the time until the next, for the file may be one that takes long.
RETRY_S = 60.0
_MAX_RETRY_S = 3600.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepositoryOptions:
    """What a repository needs to know.

    Attributes:
        root: The folder.
        default_model: Answers requests that name no model; None: the first by name that can.
        instances: How files are loaded.
        probe: Try every file in a process of its own before it is loaded here.
        model_name: Serves a folder of one model under this name (``service.engine.scan``).
        shared: A folder in which several workers agree on what is unloaded; None: there is one.
        strict_readiness: The service is ready only if every model that was there at the start is.
    """

    root: Path
    default_model: str | None
    instances: InstanceOptions
    probe: bool = True
    model_name: str | None = None
    shared: Path | None = None
    strict_readiness: bool = False


@dataclass(frozen=True)
class ReadyVersion:
    """A version that answers.

    Attributes:
        name: The model's name.
        version: Its number.
        digest: SHA-256 of the file, hex.
        instances: The loaded file.
        batcher: The way in.
        metrics: What is counted of it.
        golden_difference: Largest logit difference on the golden images; None without any.
        config_digest: SHA-256 of its ``config.toml`` and label file, hex; None without one.
    """

    name: str
    version: int
    digest: str
    instances: Instances
    batcher: Batcher
    golden_difference: float | None
    metrics: VersionMetrics
    config_digest: str | None = None

    @property
    def session(self) -> Session:
        """The first of its sessions; what it says holds for all."""
        return self.instances.first

    @property
    def metadata(self) -> ModelMetadata:
        """What the file says about itself, or its configuration about it."""
        return self.instances.first.metadata


@dataclass(frozen=True)
class Entry:
    """One version of one model: ready, or why not.

    It is both when a changed file can't be loaded and the one before goes on serving.
    """

    stamp: Stamp
    ready: ReadyVersion | None
    error: ServiceError | None
    retry_at_s: float = float("inf")
    failures: int = 0


Catalog = Mapping[str, Mapping[int, Entry]]

# In the place of every version of a model that was unloaded on demand.
UNLOADED = Entry(
    (),
    None,
    ModelNotReadyError("It was unloaded.", hint="It is served again when it is loaded."),
)


class ModelRepository:
    """Loads, holds and swaps model versions.

    Attributes:
        catalog: Every version of every model, as far as they have been looked at.
        loading: Versions that are being loaded, or wait for it.
        unloaded: Models that are left out, see ``service.engine.control``.
    """

    def __init__(self, options: RepositoryOptions, metrics: Metrics | None = None) -> None:
        """Serve a folder; nothing is loaded before ``refresh``."""
        self._metrics = metrics or Metrics()
        self.root = options.root
        self.catalog: Catalog = {}
        self.loading: frozenset[tuple[str, int]] = frozenset()
        self.unloaded = Unloaded(options.shared and options.shared / "unloaded")
        self._refreshing, self._swapping = threading.Lock(), threading.Lock()
        self._options = options
        self._loader = Loader(options.instances, probe=options.probe)
        self._required: frozenset[str] | None = None
        self._skipped: set[Path] = set()
        self._changed = False
        self._closed = False

    def refresh(self, retry: str | None = None) -> None:
        """Load what is new or changed, let go of what is gone. Blocks; call it in a thread.

        A version that can't be loaded is logged and kept in the catalog with its error.

        Args:
            retry: A model of which failed versions are tried again at once.

        Raises:
            OSError: The folder can't be read; what is loaded goes on serving.
            DeviceError: The demanded device can't be used.
        """
        with self._refreshing:
            before = _all_ready(self.catalog)
            try:
                self._refresh(retry)
            finally:
                self.loading = frozenset()
                self._loader.rest()
                # Once more a look later: a version that has just gone may still have work.
                changed = _all_ready(self.catalog) != before
                if changed or self._changed:
                    heap.release()
                self._changed = changed

    def close(self) -> None:
        """Let a refresh that is under way come to its end soon. Safe from another thread."""
        self._closed = True
        self._loader.close()

    def serve_rest(self) -> None:
        """Take out of the catalog what was unloaded."""
        self._swap()
        self._changed = True

    def _swap(self, new: Catalog | None = None) -> None:
        """Serve another catalog, or the same, without what was unloaded meanwhile."""
        with self._swapping:
            unloaded = self.unloaded.names()
            self.catalog = {
                name: dict.fromkeys(versions, UNLOADED) if name in unloaded else versions
                for name, versions in (self.catalog if new is None else new).items()
            }
            self._metrics.serve(
                (name, version, entry.ready.digest, entry.ready.session.provider)
                for name, versions in self.catalog.items()
                for version, entry in versions.items()
                if entry.ready
            )
            self._metrics.keep(
                (name, version) for name, versions in self.catalog.items() for version in versions
            )

    def _refresh(self, retry: str | None) -> None:
        old = self.catalog
        new: dict[str, dict[int, Entry]] = {}
        found, skipped, unreadable = scan(self.root, self._options.model_name)
        for path in sorted(skipped - self._skipped):
            _logger.warning("%r is no readable <name>/<version>/%s", str(path), MODEL_FILE)
        self._skipped = skipped
        for name in unreadable & old.keys():
            new[name] = dict(old[name])  # what is loaded goes on serving
        unloaded = self.unloaded.names()
        known = {
            (name, version): entry
            for name, versions in old.items()
            for version, entry in versions.items()
            if entry is not UNLOADED
        }
        self.loading = frozenset(
            (name, version)
            for name, version, _ in found
            if (name, version) not in known and name not in unloaded
        )
        for name, version, path in found:
            entry: Entry | None = UNLOADED
            if name not in unloaded:
                entry = self._entry(name, version, path, known.get((name, version)), retry == name)
            if self._closed:
                return
            if entry is not None:
                new.setdefault(name, {})[version] = entry
        for name, versions in old.items():
            for version in versions.keys() - new.get(name, {}).keys():
                _logger.info("model %s version %d is gone", name, version)
        self._swap(new)
        if self._required is None:
            default = self._options.default_model
            self._required = frozenset(new) | ({default} if default else set())
            if default and default not in new:
                _logger.error("the default model %r is not in %s", default, self.root)

    @property
    def obstacle(self) -> str | None:
        """What keeps the service from being ready, or None.

        There must be a model that answers, and the default must be one that does; strictly, so must
        every model that was there at the start. A model that was removed or unloaded is no longer
        asked for; the default is always to be there.
        """
        if self._required is None:
            return "models are being loaded"
        catalog, default = self.catalog, self._options.default_model
        required = self._required if self._options.strict_readiness else {default or ""}
        wanted = {name for name in required if name in catalog or name == default}
        silent = sorted(
            name
            for name in wanted
            if not _ready_versions(found := catalog.get(name, {})) and not _is_unloaded(found)
        )
        if silent:
            return f"can't answer: {', '.join(silent)}"
        if not any(_ready_versions(versions) for versions in catalog.values()):
            return "there is no model"
        return None

    def find(self, name: str | None, version: int | None) -> ReadyVersion:
        """Choose the version that answers a request.

        Args:
            name: Wanted model; None takes the default, else the first by name that can answer.
            version: Wanted version; None takes the highest that is ready.

        Raises:
            ModelNotFoundError: No such model.
            VersionNotFoundError: No such version of it.
            ModelNotReadyError: It is there but can't answer.
        """
        if name is None:
            served = {one: found for one, found in self.catalog.items() if not _is_unloaded(found)}
            answering = [one for one, found in served.items() if _ready_versions(found)]
            name = self._options.default_model or min(answering or served, default=None)
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
        if chosen is None and _is_unloaded(versions):
            raise ModelNotReadyError(f"Model {name!r} was unloaded.", hint="Load it first.")
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
            ModelNotReadyError: It may be among those that are still being loaded.
        """
        catalog = self.catalog
        if self._required is None and name not in catalog:
            raise ModelNotReadyError(
                "The models are still being loaded.", hint="GET /readyz says when they can answer."
            )
        if name not in catalog:
            raise ModelNotFoundError(
                f"No model is named {name[:100]!r}.",
                hint=f"There are: {', '.join(sorted(catalog)) or 'none'}.",
            )
        return catalog[name]

    def _entry(
        self, name: str, version: int, path: Path, before: Entry | None, retry: bool
    ) -> Entry | None:
        again = before is not None and unchanged(before.stamp)
        early = before is not None and time.monotonic() < before.retry_at_s
        if again and early and not (retry and before and before.error):
            return before
        try:
            stamp = take_stamp(path)
        except FileNotFoundError:
            return None  # removed since the scan
        except OSError as error:
            return before or Entry(((path, None),), None, load_failure(error))
        try:
            ready = self._load(name, version, path)
        except DeviceError:
            raise
        except Exception as error:  # whatever one file does, the others are served
            if self._closed:
                return before  # it was interrupted, and nothing is wrong with it
            self._metrics.load(name, version, succeeded=False)
            failure = load_failure(error)
            _logger.error(
                "model %s version %d is not served: %s %s",
                name,
                version,
                failure.detail,
                failure.hint,
                exc_info=None if failure is error else error,
            )
            failures = before.failures + 1 if before and again else 1
            retry_at_s = time.monotonic() + min(RETRY_S * 2 ** (failures - 1), _MAX_RETRY_S)
            return Entry(stamp, before.ready if before else None, failure, retry_at_s, failures)
        self._metrics.load(name, version, succeeded=True)
        _logger.info("model %s version %d is ready on %s", name, version, ready.session.provider)
        return Entry(stamp, ready, None)

    def _load(self, name: str, version: int, path: Path) -> ReadyVersion:
        loaded = self._loader.load(path)
        made, metrics = loaded.instances, self._metrics.version(name, version)
        metrics.predictions.name(made.first.metadata.labels)
        return ReadyVersion(
            name=name,
            version=version,
            digest=loaded.digest,
            instances=made,
            golden_difference=loaded.golden_difference,
            batcher=Batcher(made.run, made.plan, metrics, replaceable=made.replaceable),
            metrics=metrics,
            config_digest=loaded.config_digest,
        )


def _ready_versions(versions: Mapping[int, Entry]) -> dict[int, ReadyVersion]:
    return {number: e.ready for number, e in versions.items() if e.ready is not None}


def _is_unloaded(versions: Mapping[int, Entry]) -> bool:
    return any(entry is UNLOADED for entry in versions.values())


def _all_ready(catalog: Catalog) -> list[ReadyVersion | None]:
    return [entry.ready for versions in catalog.values() for entry in versions.values()]

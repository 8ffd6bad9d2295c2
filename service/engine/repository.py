"""The model repository: ``<root>/<name>/<version>/model.onnx``, watched while serving.

A version is ready once it was tried in a process of its own, is loaded, and its golden images came
out right on the device that serves. Readers see one immutable catalog; a refresh builds the next
one and swaps it in. A request keeps the version that it began with, so nothing is dropped when a
version is replaced or removed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from service.engine import heap
from service.engine.batcher import Batcher
from service.engine.bundle import Bundle, Stamp, read_bundle, take_stamp, unchanged
from service.engine.digest import check_digest
from service.engine.errors import (
    DeviceError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServiceError,
    VersionNotFoundError,
)
from service.engine.golden import replay_golden_images
from service.engine.instances import InstanceOptions, Instances
from service.engine.metrics import Metrics, VersionMetrics
from service.engine.onnx_file import check_model_file
from service.engine.probe import Probe, Tried
from service.engine.scan import scan
from service.engine.session import Session
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
        default_model: Answers requests that name no model; None: the first by name.
        instances: How files are loaded.
        probe: Try every file in a process of its own before it is loaded here.
    """

    root: Path
    default_model: str | None
    instances: InstanceOptions
    probe: bool = True


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


class ModelRepository:
    """Loads, holds and swaps model versions."""

    def __init__(self, options: RepositoryOptions, metrics: Metrics | None = None) -> None:
        """Serve a folder; nothing is loaded before ``refresh``."""
        self._metrics = metrics or Metrics()
        self.root = options.root
        self.catalog: Catalog = {}
        self._options = options
        self._instances = options.instances
        self._device_settled = False
        self._probe = Probe() if options.probe else None
        self._required: frozenset[str] | None = None
        self._skipped: set[Path] = set()
        self._changed = False

    def refresh(self) -> None:
        """Load what is new or changed, let go of what is gone. Blocks; call it in a thread.

        A version that can't be loaded is logged and kept in the catalog with its error.

        Raises:
            OSError: The folder can't be read; what is loaded goes on serving.
            DeviceError: The demanded device can't be used.
        """
        before = _all_ready(self.catalog)
        try:
            self._refresh()
        finally:
            if self._probe:
                self._probe.rest()
            # Once more a look later: a version that has just gone may still have work.
            changed = _all_ready(self.catalog) != before
            if changed or self._changed:
                heap.release()
            self._changed = changed

    def close(self) -> None:
        """Let a refresh that is under way come to its end soon. Safe from another thread."""
        if self._probe:
            self._probe.close()

    def _refresh(self) -> None:
        old = self.catalog
        new: dict[str, dict[int, Entry]] = {}
        found, skipped, unreadable = scan(self.root)
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
        self._metrics.serve(
            (name, version, entry.ready.digest, entry.ready.session.provider)
            for name, versions in new.items()
            for version, entry in versions.items()
            if entry.ready
        )
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

    def _entry(self, name: str, version: int, path: Path, before: Entry | None) -> Entry | None:
        again = before is not None and unchanged(before.stamp)
        if before and again and time.monotonic() < before.retry_at_s:
            return before
        try:
            stamp = take_stamp(path)
        except FileNotFoundError:
            return None  # removed since the scan
        except OSError as error:
            return before or Entry(((path, None),), None, _unreadable(error))
        try:
            ready = self._load(name, version, path)
        except DeviceError:
            raise
        except Exception as error:  # whatever one file does, the others are served
            self._metrics.load(name, version, succeeded=False)
            failure = error if isinstance(error, ServiceError) else _broken(error)
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
        tried = self._probe.try_out(path) if self._probe else None
        bundle = read_bundle(path)
        if tried is None:
            check_model_file(bundle.model)
        elif tried != Tried(bundle.digest, bundle.config_digest):
            raise ModelLoadError(
                "The file changed while it was being loaded.", hint="It is loaded again at once."
            )
        instances = self._open(bundle)
        if check_digest(bundle.model, instances.first.metadata.file_digest) == "differs":
            raise ModelLoadError(
                "The file was changed after it was written: its digest differs.",
                hint="Copy or export it again.",
            )
        differences = [replay_golden_images(session) for session in instances.sessions]
        instances.measure(bundle.model, bundle.config)
        metrics = self._metrics.version(name, version)
        return ReadyVersion(
            name=name,
            version=version,
            digest=bundle.digest,
            instances=instances,
            golden_difference=max((d for d in differences if d is not None), default=None),
            batcher=Batcher(instances.run, instances.plan, metrics),
            metrics=metrics,
            config_digest=bundle.config_digest,
        )

    def _open(self, bundle: Bundle) -> Instances:
        """Load a file on the device that the first file settled.

        A later file that fails there is that file's trouble (too large for the memory that is
        left, say): it neither ends the service nor silently goes to the CPU.
        """
        try:
            instances = Instances(bundle.model, self._instances, bundle.config)
        except DeviceError as error:
            if self._device_settled:
                raise ModelLoadError(error.detail, hint=error.hint) from error
            raise
        sessions = replace(self._instances.sessions, device=instances.device)
        self._instances = replace(self._instances, sessions=sessions)
        self._device_settled = True
        return instances


def _ready_versions(versions: Mapping[int, Entry]) -> dict[int, ReadyVersion]:
    return {number: e.ready for number, e in versions.items() if e.ready is not None}


def _all_ready(catalog: Catalog) -> list[ReadyVersion | None]:
    return [entry.ready for versions in catalog.values() for entry in versions.values()]


def _unreadable(error: OSError) -> ModelLoadError:
    return ModelLoadError(
        f"The file can't be read: {error.strerror}.", hint="Check its permissions."
    )


def _broken(error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"The file can't be loaded ({type(error).__name__}).",
        hint="The file is damaged; export it again.",
    )

"""Bring one model file into use: tried apart, read, opened, compared with its golden images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.engine.bundle import Bundle, read_bundle
from service.engine.digest import check_digest
from service.engine.errors import DeviceError, ModelLoadError, ServiceError
from service.engine.golden import replay_golden_images
from service.engine.instances import InstanceOptions, Instances
from service.engine.onnx_file import check_model_file
from service.engine.probe import Probe, Tried


@dataclass(frozen=True)
class Loaded:
    """A file that can answer.

    Attributes:
        instances: Its sessions.
        digest: SHA-256 of the file, hex.
        config_digest: SHA-256 of its ``config.toml`` and label file, hex; None without one.
        golden_difference: Largest logit difference on the golden images; None without any.
    """

    instances: Instances
    digest: str
    config_digest: str | None
    golden_difference: float | None


class Loader:
    """Loads files, all of them on the device that the first one settles."""

    def __init__(self, options: InstanceOptions, *, probe: bool) -> None:
        """Load by these options.

        Args:
            options: How files are loaded.
            probe: Try every file in a process of its own first.
        """
        self._options = options
        self._device_settled = False
        self._probe = Probe() if probe else None

    def load(self, path: Path) -> Loaded:
        """Load a model file.

        Raises:
            ModelLoadError: It can't be served.
            DeviceError: The demanded device can't be used, and never could.
            InferenceError: It can't run.
        """
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
        instances.measure(bundle.model, bundle.config)
        # Last, when all is there that will answer: the session of all threads, CUDA graphs.
        differences = [replay_golden_images(session, most) for session, most in instances.served]
        return Loaded(
            instances,
            bundle.digest,
            bundle.config_digest,
            max((d for d in differences if d is not None), default=None),
        )

    def rest(self) -> None:
        """Keep nothing running until the next file."""
        if self._probe:
            self._probe.rest()

    def close(self) -> None:
        """Let a trial that is under way come to its end soon. Safe from another thread."""
        if self._probe:
            self._probe.close()

    def _open(self, bundle: Bundle) -> Instances:
        """Open a file on the device that the first file settled.

        A later file that fails there is that file's trouble (too large for the memory that is
        left, say): it neither ends the service nor silently goes to the CPU.
        """
        try:
            instances = Instances(bundle.model, self._options, bundle.config)
        except DeviceError as error:
            if self._device_settled:
                raise ModelLoadError(error.detail, hint=error.hint) from error
            raise
        self._options = instances.settled
        self._device_settled = True
        return instances


def load_failure(error: Exception) -> ServiceError:
    """What is said of a file that could not be loaded, whatever it made of those who tried."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, OSError):
        return ModelLoadError(
            f"The file can't be read: {error.strerror or error}.", hint="Check its permissions."
        )
    if isinstance(error, MemoryError):
        return ModelLoadError(
            "There is not enough memory to load the file.",
            hint="Free some, or allow the service more; it is tried again.",
        )
    return ModelLoadError(
        f"The file can't be loaded ({type(error).__name__}).",
        hint="The file is damaged; export it again.",
    )

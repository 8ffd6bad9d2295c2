"""One ONNX Runtime session: a loaded model file on the device that really runs it."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import ValidationError

from service.engine.errors import DeviceError, InferenceError, ModelLoadError
from service.engine.foreign import ForeignGraph
from service.engine.signature import misfit
from service.metadata import (
    INPUT_NAME,
    LOGITS_NAME,
    METADATA_KEY,
    PROBABILITIES_NAME,
    ModelMetadata,
)
from service.model_config import ModelConfig

DeviceChoice = Literal["auto", "cpu", "cuda"]
CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

# TF32 keeps 10 bits of mantissa: golden images, made in float32, would show it. Searching the
# fastest algorithm for every new batch size would stall the first request of that size.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_QUIET = 3  # ONNX Runtime's severity "error": its warnings name internals, ours say what to do
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionOptions:
    """How sessions are made.

    Attributes:
        device: ``cuda`` fails where it can't run; ``auto`` falls back to the CPU with a warning.
        threads: Threads that one run may use on the CPU.
    """

    device: DeviceChoice = "auto"
    threads: int = 1


@dataclass(frozen=True)
class Prediction:
    """Outputs for a batch: ``logits`` and ``probabilities``, float32 [N, C] each."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


class Session:
    """A model that is loaded and ready to run. Safe to call from several threads.

    A file of our own says all about itself; any other needs a configuration, and is tried on random
    pictures.

    Attributes:
        metadata: What the file says about itself, or its configuration about it.
        provider: The execution provider that the session really has, never the configured one.
        device: The same as a choice: ``cuda`` or ``cpu``.
    """

    def __init__(
        self, model: bytes | Path, options: SessionOptions, config: ModelConfig | None = None
    ) -> None:
        """Load a model file or its bytes.

        Raises:
            ModelLoadError: No ONNX model; one without our metadata, inputs or outputs and without a
                configuration; or one that its configuration doesn't fit.
            DeviceError: ``options.device`` is ``cuda`` and CUDA can't be used.
        """
        self._session = open_graph(model, options)
        self.provider: str = self._session.get_providers()[0]
        self.device: DeviceChoice = "cuda" if self.provider == CUDA_PROVIDER else "cpu"
        self._foreign: ForeignGraph | None = None
        own = _read_metadata(self._session)
        if own is not None:
            _check_signature(self._session, own)
            self.metadata = _with_config(own, config) if config else own
        elif config is not None:
            self._foreign = ForeignGraph(self._session, config)
            self.metadata = self._foreign.metadata
        else:
            raise ModelLoadError(
                f"The model has no {METADATA_KEY!r} in its metadata, and there is no config.toml.",
                hint="Export it with 'adaresnet export', or let 'adaresnet import' write one.",
            )

    def run(self, images: NDArray[np.uint8]) -> Prediction:
        """Run one batch.

        Args:
            images: RGB pixels, uint8 [N, height, width, 3], N >= 1, of the metadata's size.

        Raises:
            InferenceError: ONNX Runtime failed.
        """
        try:
            if self._foreign is not None:
                return Prediction(*self._foreign.run(images))
            logits, probabilities = self._session.run(
                [LOGITS_NAME, PROBABILITIES_NAME], {INPUT_NAME: images}
            )
        except Exception as error:  # ONNX Runtime's own classes share no base
            raise InferenceError(
                f"The network failed on a batch of {len(images)} images.",
                hint="This is a fault of the service or its model; its log has the cause.",
            ) from error
        return Prediction(logits, probabilities)


def available_cpus() -> int:
    """CPUs that this process may use: affinity and cgroup (v2) quota, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()[:2]
        if limit != "max":
            count = min(count or 1, round(int(limit) / int(period)))
    return max(1, count or 1)


def cuda_built_in() -> bool:
    """The installed ONNX Runtime has a CUDA provider (which may still fail to start)."""
    return CUDA_PROVIDER in ort.get_available_providers()


def open_graph(model: bytes | Path, options: SessionOptions) -> ort.InferenceSession:
    """Load a model file or its bytes on the device that the options choose.

    Raises:
        ModelLoadError: No ONNX model.
        DeviceError: ``options.device`` is ``cuda`` and CUDA can't be used.
    """
    if options.device != "cpu":
        try:
            return _create_on_cuda(model, options)
        except DeviceError as error:
            if options.device == "cuda":
                raise
            # Without the GPU package the CPU is what was installed, not a fallback to warn of.
            level = logging.WARNING if cuda_built_in() else logging.DEBUG
            _logger.log(level, "running on the CPU: %s", error.detail)
    return _open(model, options, [CPU_PROVIDER])


def _create_on_cuda(model: bytes | Path, options: SessionOptions) -> ort.InferenceSession:
    if not cuda_built_in():
        raise DeviceError(
            "The installed ONNX Runtime has no CUDA provider.",
            hint="Install adaresnet[gpu] instead of adaresnet[cpu], or use --device cpu.",
        )
    said = _preload_cuda_libraries()
    try:
        session = _open(model, options, [(CUDA_PROVIDER, _CUDA_OPTIONS), CPU_PROVIDER])
    except ModelLoadError as error:
        # A file that loads nowhere is the file's fault; one that loads on the CPU is not.
        _open(model, options, [CPU_PROVIDER])
        raise _no_cuda(_first_line(error.__cause__)) from error
    if session.get_providers()[0] != CUDA_PROVIDER:
        raise _no_cuda(said or "no GPU, no driver, or its libraries don't load")
    return session


@functools.cache
def _preload_cuda_libraries() -> str:
    """Load CUDA and cuDNN from their Python packages, so that no LD_LIBRARY_PATH is needed.

    Returns:
        The first line of what ONNX Runtime had to say. It prints where it should log, and standard
        output belongs to the command that runs.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            ort.preload_dlls()
        except Exception as error:  # the session's creation decides; this is only its preparation
            printed.write(_first_line(error))
    return printed.getvalue().partition("\n")[0]


def _first_line(error: BaseException | None) -> str:
    return str(error).partition("\n")[0]


def _brief(error: BaseException) -> str:
    return _first_line(error).rpartition(" : ")[2][:200].rstrip(". ")


def _no_cuda(reason: str) -> DeviceError:
    return DeviceError(
        f"CUDA can't be used: {reason}.",
        hint="Check nvidia-smi and the CUDA and cuDNN packages, or use --device cpu.",
    )


def _open(
    model: bytes | Path, options: SessionOptions, providers: list[str | tuple[str, dict[str, str]]]
) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = _QUIET
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    # Spinning threads would take the core that serves HTTP.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    try:
        # Without its fallback, which would print on standard output and hide what runs.
        return ort.InferenceSession(source, settings, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own classes share no base
        raise ModelLoadError(
            f"ONNX Runtime can't load the model ({type(error).__name__}): {_brief(error)}.",
            hint="The file is damaged or no ONNX model; export it again.",
        ) from error


def _read_metadata(session: ort.InferenceSession) -> ModelMetadata | None:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        return None
    try:
        return ModelMetadata.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelLoadError(
            f"The model's metadata is not valid at {where!r}: {first['msg']}.",
            hint="Export it with this version of 'adaresnet export'.",
        ) from error


def _check_signature(session: ort.InferenceSession, metadata: ModelMetadata) -> None:
    size = metadata.input
    wanted_inputs = {INPUT_NAME: ("tensor(uint8)", [size.height, size.width, 3])}
    outputs = ("tensor(float)", [len(metadata.labels)])
    wanted_outputs = {LOGITS_NAME: outputs, PROBABILITIES_NAME: outputs}
    for tensor in session.get_inputs():
        if tensor.shape and isinstance(tensor.shape[0], int):
            raise ModelLoadError(
                f"The graph takes batches of exactly {tensor.shape[0]}.",
                hint="Export it with a batch dimension that is free.",
            )
    inputs = {i.name: (i.type, list(i.shape[1:])) for i in session.get_inputs()}
    found = {o.name: (o.type, list(o.shape[1:])) for o in session.get_outputs()}
    if inputs != wanted_inputs or found != wanted_outputs:
        raise ModelLoadError(
            f"The graph takes {inputs} and gives {found}; its metadata says"
            f" {wanted_inputs} and {wanted_outputs}.",
            hint="Export it again with 'adaresnet export'.",
        )


def _with_config(own: ModelMetadata, config: ModelConfig) -> ModelMetadata:
    """Our own file with another description and other names for its classes."""
    for table in ("input", "normalization", "output"):
        if getattr(config, table) is not None:
            raise misfit(
                f"[{table}] is given, but this model says that itself; only description, labels"
                " and sha256 may be."
            )
    labels = config.labels if isinstance(config.labels, list) else own.labels
    if len(labels) != len(own.labels):
        raise misfit(f"labels has {len(labels)} entries; the model has {len(own.labels)}.")
    description = own.description if config.description is None else config.description
    return own.model_copy(update={"description": description, "labels": labels})

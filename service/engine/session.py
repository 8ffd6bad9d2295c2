"""One ONNX Runtime session: a loaded model file on the device that really runs it."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import ValidationError

from service.engine import providers
from service.engine.devices import parse_devices
from service.engine.errors import (
    DeviceError,
    DeviceLostError,
    InferenceError,
    ModelLoadError,
    OutOfMemoryError,
)
from service.engine.foreign import ForeignGraph
from service.engine.gpu import GpuGraph, GpuOptions
from service.engine.providers import Opened, open_on_cpu, open_on_gpu
from service.engine.signature import misfit
from service.metadata import (
    INPUT_NAME,
    LOGITS_NAME,
    METADATA_KEY,
    PROBABILITIES_NAME,
    ModelMetadata,
)
from service.model_config import ModelConfig

CPU_PROVIDER = providers.CPU_PROVIDER
CUDA_PROVIDER = providers.CUDA_PROVIDER
# Words of CUDA, cuDNN and ONNX Runtime's arena.
_OUT_OF_MEMORY = ("out of memory", "failed to allocate", "available memory of", "alloc_failed")
# ONNX Runtime writes "CUDA failure 700: an illegal memory access was encountered". After these
# errors every later call of the process fails too (CUDA Runtime API, cudaError): no device (100,
# 101), ECC and bus errors (214, 220), a context that is destroyed or broken (700, 709 to 719), and
# what nobody can say more of (46, 802, 999).
_DEVICE_LOST = re.compile(r"cuda failure (46|100|101|214|220|700|709|71\d|802|999)\b")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionOptions:
    """How sessions are made.

    Attributes:
        device: As ``parse_devices`` reads it; of several, the first. GPUs that are named fail where
            they can't run; ``auto`` falls back to the CPU with a warning.
        threads: Threads that one run may use on the CPU.
        spin: They wait actively for each other: faster where nothing else runs.
        strict: A GPU that is named takes a model as a whole or not at all; else, as always with
            ``auto``, parts of it may run on the CPU, with a warning.
        gpu: What matters on GPUs only.
    """

    device: str = "auto"
    threads: int = 1
    spin: bool = False
    strict: bool = True
    gpu: GpuOptions = field(default_factory=GpuOptions)


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
        provider: The execution provider that really runs the network, never the configured one.
        device: Where: ``cpu``, ``cuda:0``, ``tensorrt:1``.
        buckets: The batch sizes that it runs, smaller batches being padded; empty: any.
        batch_size: Pictures of every run where the graph is fixed to it, others being padded.
    """

    def __init__(
        self, model: bytes | Path, options: SessionOptions, config: ModelConfig | None = None
    ) -> None:
        """Load a model file or its bytes.

        Raises:
            ModelLoadError: No ONNX model; one without our metadata, inputs or outputs and without a
                configuration; or one that its configuration doesn't fit.
            DeviceError: ``options.device`` names a GPU that can't be used.
        """
        opened = _open(model, options)
        self._session = opened.graph
        self.provider = opened.provider
        self.device = str(opened.device)
        self.buckets: tuple[int, ...] = ()
        self._runs_until_warm = 1
        if isinstance(opened.graph, GpuGraph):
            self.buckets = opened.graph.buckets
            self._runs_until_warm = opened.graph.runs_until_warm
        self._foreign: ForeignGraph | None = None
        self.batch_size: int | None = None
        about = self._session.get_modelmeta()
        own = read_own_metadata(about.custom_metadata_map.get(METADATA_KEY))
        if own is not None:
            _check_signature(self._session, own)
            self.metadata = _with_config(own, config) if config else own
        elif config is not None:
            self._foreign = ForeignGraph(self._session, config)
            self.metadata = self._foreign.metadata
            self.batch_size = self._foreign.batch_size
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
            OutOfMemoryError: There was not enough memory.
            DeviceLostError: The GPU has failed for good.
            InferenceError: ONNX Runtime failed otherwise.
        """
        try:
            if self._foreign is not None:
                return Prediction(*self._foreign.run(images))
            logits, probabilities = self._session.run(
                [LOGITS_NAME, PROBABILITIES_NAME], {INPUT_NAME: images}
            )
        except Exception as error:  # ONNX Runtime's own classes share no base
            raise _failure(error, len(images)) from error
        return Prediction(logits, probabilities)

    def warm_up(self, batch_size: int) -> None:
        """Run a batch of that size until the next one is like all that follow.

        Raises:
            InferenceError: As ``run`` does.
        """
        size = self.metadata.input
        images = np.zeros((batch_size, size.height, size.width, 3), np.uint8)
        for _ in range(self._runs_until_warm):
            self.run(images)


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
    return providers.built_in("cuda")


def open_graph(model: bytes | Path, options: SessionOptions) -> Any:
    """Load a model file or its bytes on the device that the options choose.

    Returns:
        An ``InferenceSession``, or what has its face.

    Raises:
        ModelLoadError: No ONNX model.
        DeviceError: ``options.device`` names a GPU that can't be used.
    """
    return _open(model, options).graph


def _open(model: bytes | Path, options: SessionOptions) -> Opened:
    devices = parse_devices(options.device)
    device = devices.each[0]
    strict = options.strict and devices.demanded
    if device.kind != "cpu":
        try:
            return open_on_gpu(model, device, options.threads, options.gpu, strict=strict)
        except DeviceError as error:
            if devices.demanded:
                raise
            # Without the GPU package the CPU is what was installed, not a fallback to warn of.
            level = logging.WARNING if cuda_built_in() else logging.DEBUG
            _logger.log(level, "running on the CPU: %s", error.detail)
    return open_on_cpu(model, options.threads, spin=options.spin)


def _failure(error: Exception, count: int) -> InferenceError:
    text = str(error).lower()
    if _DEVICE_LOST.search(text):
        return DeviceLostError(
            f"The GPU failed on a batch of {count} images.",
            hint="The process has to be started again, which /healthz says; see also nvidia-smi.",
        )
    if any(words in text for words in _OUT_OF_MEMORY):
        return OutOfMemoryError(
            f"There was no memory left for a batch of {count} images.",
            hint="Lower max_batch_size or instances; on a GPU see also gpu_memory_mib.",
        )
    return InferenceError(
        f"The network failed on a batch of {count} images.",
        hint="This is a fault of the service or its model; its log has the cause.",
    )


def read_own_metadata(text: str | None) -> ModelMetadata | None:
    """What a file of ours says about itself; None where it says nothing.

    Raises:
        ModelLoadError: That is not valid.
    """
    if text is None:
        return None
    try:
        return ModelMetadata.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ModelLoadError(
            f"The model's metadata is not valid at {where!r}: {first['msg']}.",
            hint="The file was changed, or written by another version of 'adaresnet export'.",
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

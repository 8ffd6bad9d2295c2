"""Build TensorRT's engine of a model, so that the service only has to load it."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass

from service.engine import tensorrt
from service.engine.bundle import Bundle
from service.engine.devices import Device
from service.engine.errors import DeviceError, ModelLoadError
from service.engine.golden import replay_golden_images
from service.engine.gpu import GpuGraph, GpuOptions, try_zeros
from service.engine.providers import (
    TENSORRT_PROVIDER,
    built_in,
    check_placement,
    create_on_gpu,
    load_libraries,
    placement,
)
from service.engine.session import Session, SessionOptions


@dataclass(frozen=True)
class Built:
    """An engine that is there now.

    Attributes:
        key: What it depends on.
        build_s: How long it took; None where it was there already.
        golden_difference: Largest logit difference on the golden images; None without any.
        buckets: Batch sizes that were run.
    """

    key: tensorrt.EngineKey
    build_s: float | None
    golden_difference: float | None
    buckets: tuple[int, ...]


def build_engine(bundle: Bundle, device: Device, options: GpuOptions, *, rebuild: bool) -> Built:
    """Build what is missing, then load it as the service would and replay the golden images.

    Raises:
        ModelLoadError: TensorRT can't take the model, or answers wrongly.
        DeviceError: TensorRT or the GPU can't be used.
        InferenceError: A batch does not run.
    """
    if not built_in(device.kind):
        raise DeviceError(
            "The installed ONNX Runtime has no TensorRT provider.",
            hint="Install adaresnet[gpu] and TensorRT 10 (docs/gpu.md).",
        )
    load_libraries(device.kind)
    key = tensorrt.engine_key(bundle.digest, device, options)
    if rebuild:
        shutil.rmtree(key.folder, ignore_errors=True)
    build_s = None
    try:
        tensorrt.find_engines(key)
    except ModelLoadError:
        build_s = _build(bundle.model, device, options, key)
    session = Session(bundle.model, SessionOptions(str(device), gpu=options), bundle.config)
    difference = replay_golden_images(session)
    for bucket in session.buckets:
        session.warm_up(bucket)
    return Built(key, build_s, difference, session.buckets)


def _build(model: bytes, device: Device, options: GpuOptions, key: tensorrt.EngineKey) -> float:
    """Into a folder beside, which takes its place when it is whole; says how long it took."""
    partial = key.folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    started_s = time.perf_counter()
    session = create_on_gpu(model, device, 1, options, partial)
    if session.get_providers()[0] != TENSORRT_PROVIDER:
        raise DeviceError(
            "TensorRT can't be used: no GPU, no driver, or its libraries don't load.",
            hint="Check nvidia-smi and the TensorRT and CUDA packages.",
        )
    check_placement(placement(session), device, strict=True)
    graph = GpuGraph(session, device, options, replays=False)
    try_zeros(graph, graph.run)  # whatever it has left for the first run
    build_s = time.perf_counter() - started_s
    tensorrt.write_manifest(key, partial, build_s)
    shutil.rmtree(key.folder, ignore_errors=True)
    partial.rename(key.folder)
    return build_s

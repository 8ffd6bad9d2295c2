"""The network alone on a device, run in every way that the service could run it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engine.bundle import read_bundle
from service.engine.devices import Device, parse_devices
from service.engine.golden import replay_golden_images
from service.engine.gpu import Binding, GpuGraph, GpuOptions
from service.engine.providers import create_on_gpu, load_libraries, open_on_cpu, open_on_gpu
from service.engine.session import Session, SessionOptions
from service.metadata import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME

Pixels = NDArray[np.uint8]
Run = Callable[[Pixels], object]
_NAMES = [LOGITS_NAME, PROBABILITIES_NAME]
_WARM_UP_RUNS = 5  # CUDA graphs are captured in the first few


@dataclass(frozen=True)
class Variant:
    """One way of running a network.

    Attributes:
        name: For the table.
        runs: One callable a lane; each takes uint8 [N, H, W, 3].
    """

    name: str
    runs: Sequence[Run]


@dataclass(frozen=True)
class Checked:
    """A model that answered its golden images right on the device."""

    path: Path
    height: int
    width: int
    provider: str
    difference: float | None


def first_device(text: str) -> Device:
    """The first device that a setting names."""
    return parse_devices(text).each[0]


def check(path: Path, device: str) -> Checked:
    """Load a model on a device and replay its golden images.

    Raises:
        ServiceError: It does not run there, or answers wrongly.
    """
    bundle = read_bundle(path)
    session = Session(bundle.model, SessionOptions(device), bundle.config)
    size = session.metadata.input
    difference = replay_golden_images(session)
    return Checked(path, size.height, size.width, session.provider, difference)


def variants(path: Path, device: Device, options: GpuOptions) -> Iterator[Variant]:
    """Every way, one after the other, so that one at a time holds memory.

    Raises:
        ServiceError: One does not run on this device.
    """
    model = read_bundle(path).model
    yield Variant("ONNX Runtime, plain `run`", [_plain(model, device, options)])
    for lanes in (1, 2, 3):
        graphs = [_ours(model, device, options) for _ in range(lanes)]
        yield Variant(f"buckets, host array, lanes: {lanes}", graphs)
    bound = GpuOptions(max_batch_size=options.max_batch_size, binding=Binding.DEVICE)
    yield Variant("buckets, IO binding, lanes: 2", [_ours(model, device, bound) for _ in range(2)])
    if device.kind == "cuda":
        replaying = GpuOptions(max_batch_size=options.max_batch_size, cuda_graphs=True)
        for lanes in (1, 2):
            graphs = [_ours(model, device, replaying) for _ in range(lanes)]
            yield Variant(f"buckets, CUDA graphs, lanes: {lanes}", graphs)


def tensorrt_variants(path: Path, index: int, options: GpuOptions) -> Iterator[Variant]:
    """With TensorRT, whose engine is built first where it is missing.

    Raises:
        ServiceError: TensorRT does not run here.
    """
    from service.engine.engine_build import build_engine

    device = Device("tensorrt", index)
    bundle = read_bundle(path)
    for fp16 in (False, True):
        made = GpuOptions(max_batch_size=options.max_batch_size, tensorrt_fp16=fp16)
        build_engine(bundle, device, made, rebuild=False)
        graphs = [_ours(bundle.model, device, made) for _ in range(2)]
        yield Variant(f"TensorRT{', fp16' * fp16}, lanes: 2", graphs)


def images_per_s(variant: Variant, images: Pixels, seconds: float) -> float:
    """What all lanes together reach with batches like this one."""
    for run in variant.runs:
        for _ in range(_WARM_UP_RUNS):
            run(images)
    counts = [0] * len(variant.runs)
    started_s = time.perf_counter()

    def work(lane: int) -> None:
        while time.perf_counter() < started_s + seconds:
            variant.runs[lane](images)
            counts[lane] += len(images)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started_s)


def write_resnet50(folder: Path) -> None:
    """A ResNet-50 for 224 px with random weights, in float32 and float16; needs PyTorch."""
    import torch

    from service.metadata import Input, ModelMetadata
    from training.export.fold import FLOAT16, FLOAT32, fold_network
    from training.export.fuse import fuse_network
    from training.export.graph import build_graph, with_metadata
    from training.networks.network import NetworkOptions, ResidualNetwork
    from training.networks.registry import build_network

    torch.manual_seed(0)
    network = build_network("resnet50", NetworkOptions(3, 1000, 224)).eval()
    assert isinstance(network, ResidualNetwork)
    fused = fuse_network(network, [0.5] * 3, [0.25] * 3)
    size = Input(height=224, width=224)
    described = ModelMetadata(labels=[str(index) for index in range(1000)], input=size)
    for name, arithmetic in (("resnet50", FLOAT32), ("resnet50-fp16", FLOAT16)):
        graph = build_graph(fold_network(fused, arithmetic), size, half=arithmetic is FLOAT16)
        path = folder / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(with_metadata(graph, described))


def _plain(model: bytes, device: Device, options: GpuOptions) -> Run:
    if device.kind == "cpu":
        session = open_on_cpu(model, 1).graph
    else:
        load_libraries(device.kind)
        session = create_on_gpu(model, device, 1, options, None)
    return lambda images: session.run(_NAMES, {INPUT_NAME: images})


def _ours(model: bytes, device: Device, options: GpuOptions) -> Run:
    if device.kind == "cpu":
        graph = GpuGraph(open_on_cpu(model, 1).graph, device, options, replays=False)
    else:
        graph = open_on_gpu(model, device, 1, options, strict=True).graph
    return lambda images: graph.run(_NAMES, {INPUT_NAME: images})

"""What a learned shortcut scale costs at inference: nothing once folded, something when kept.

    python benchmarks/folding.py --network resnet20

Times three graphs of one network in turns: with learned scales folded, the plain ResNet (every
scale 1), and the scales kept as Mul. Prints images/s and the ratio to the plain one, median and
range over the rounds. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from service.engine.session import Session, SessionOptions, available_cpus
from service.metadata import Input, ModelMetadata
from training.export.arrays import (
    FoldedBlock,
    FoldedNetwork,
    FoldedPixelSkip,
    FusedBlock,
    FusedNetwork,
)
from training.export.fold import fold_network
from training.export.fuse import fuse_network
from training.export.graph import build_graph, with_metadata
from training.networks.network import NetworkOptions
from training.networks.registry import build_network, find_network

_RUNS = 20
_CLASSES = 10


def main() -> None:
    """Print one line a graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20", help="see 'adaresnet networks'")
    parser.add_argument("--width", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    px = find_network(args.network).image_px
    options = NetworkOptions(3, _CLASSES, px, args.width)
    fused = fuse_network(build_network(args.network, options).eval(), [0.5] * 3, [0.25] * 3)
    scaled = _scaled(fused)
    sessions = {
        "plain ResNet": _session(fold_network(fused.plain_twin()), px),
        "scales folded": _session(fold_network(scaled), px),
        "scales kept": _session(_unfolded(scaled), px),
    }
    shape = (args.batch_size, px, px, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rates: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(args.rounds):
        for name, session in sessions.items():
            rates[name].append(args.batch_size / _seconds(session, images))
    plain = rates["plain ResNet"]
    for name, measured in rates.items():
        ratios = [ours / base for ours, base in zip(measured, plain, strict=True)]
        print(
            f"{name}: {statistics.median(measured):.0f} images/s, ratio"
            f" {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


def _scaled(network: FusedNetwork) -> FusedNetwork:
    """The network with a drawn scale on every shortcut."""
    rng = np.random.default_rng(0)
    steps = tuple(
        replace(step, shortcut_scale=np.full_like(step.shortcut_scale, rng.uniform(0.5, 1.5)))
        if isinstance(step, FusedBlock)
        else step
        for step in network.steps
    )
    skip = network.pixel_skip
    if skip is not None:
        skip = replace(skip, shortcut_scale=np.full_like(skip.shortcut_scale, 0.7))
    return replace(network, steps=steps, pixel_skip=skip)


def _unfolded(network: FusedNetwork) -> FoldedNetwork:
    """The network with every scale as a Mul on its shortcut."""
    plain = fold_network(network.plain_twin())
    scales = {s.name: s.shortcut_scale for s in network.steps if isinstance(s, FusedBlock)}
    steps = tuple(
        replace(step, kept_mul=scales[step.name]) if isinstance(step, FoldedBlock) else step
        for step in plain.steps
    )
    skip = plain.pixel_skip
    if isinstance(skip, FoldedPixelSkip) and network.pixel_skip is not None:
        skip = replace(skip, image_mul=network.pixel_skip.shortcut_scale)
    return replace(plain, steps=steps, pixel_skip=skip)


def _session(network: FoldedNetwork, px: int) -> Session:
    size = Input(height=px, width=px)
    metadata = ModelMetadata(labels=[str(index) for index in range(_CLASSES)], input=size)
    model = with_metadata(build_graph(network, size), metadata)
    return Session(model, SessionOptions("cpu", available_cpus()))


def _seconds(session: Session, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
    started = time.perf_counter()
    for _ in range(_RUNS):
        session.run(images)
    return (time.perf_counter() - started) / _RUNS


if __name__ == "__main__":
    main()

"""What a learned shortcut scale costs at inference: nothing once folded, something when kept.

    python benchmarks/folding.py

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
from training.export.fold import FoldedNetwork, FusedNetwork, fold_network
from training.export.fuse import fuse_network
from training.export.graph import build_graph, with_metadata
from training.networks.cifar import NetworkOptions
from training.networks.registry import build_network

_RUNS = 20


def main() -> None:
    """Print one line a graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    network = build_network(args.network, NetworkOptions(3, 10, args.width)).eval()
    fused = fuse_network(network, [0.5] * 3, [0.25] * 3)
    scales = np.random.default_rng(0).uniform(0.5, 1.5, len(fused.blocks))
    scaled = replace(
        fused,
        blocks=tuple(
            replace(block, shortcut_scale=float(scale))
            for block, scale in zip(fused.blocks, scales, strict=True)
        ),
    )
    sessions = {
        "plain ResNet": _session(fold_network(fused)),
        "scales folded": _session(fold_network(scaled)),
        "scales kept": _session(_unfolded(scaled)),
    }
    shape = (args.batch_size, 32, 32, 3)
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


def _unfolded(network: FusedNetwork) -> FoldedNetwork:
    """The network with every scale as a Mul on its shortcut."""
    plain = fold_network(network.plain_twin())
    blocks = tuple(
        replace(block, kept_mul=fused.shortcut_scale)
        for block, fused in zip(plain.blocks, network.blocks, strict=True)
    )
    return replace(plain, blocks=blocks)


def _session(network: FoldedNetwork) -> Session:
    size = Input(height=32, width=32)
    metadata = ModelMetadata(labels=[str(index) for index in range(10)], input=size)
    model = with_metadata(build_graph(network, size), metadata)
    return Session(model, SessionOptions("cpu", available_cpus()))


def _seconds(session: Session, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
    started = time.perf_counter()
    for _ in range(_RUNS):
        session.run(images)
    return (time.perf_counter() - started) / _RUNS


if __name__ == "__main__":
    main()

"""What keeping freed memory and learned shortcut scales do to the speed of training.

    python benchmarks/training_step.py

Runs each variant in a process of its own, in turns, and prints images/s and the ratio to the first
variant, median over the rounds. Weights and pixels are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch

from training.allocator import keep_freed_memory
from training.config import TrainConfig
from training.data.augment import Normalize
from training.data.dataset import Split
from training.loop import Trainer, train_epoch
from training.networks.cifar import NetworkOptions
from training.networks.registry import build_network
from training.optim import build_optimizer

VARIANTS = {
    "learned scales, freed memory kept": (True, True),
    "fixed scales, freed memory kept": (False, True),
    "learned scales, freed memory returned": (True, False),
}
_STEPS = 12


def main() -> None:
    """Compare the variants, or with --variant measure one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", choices=tuple(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(_images_per_s(args))
        return
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(args.rounds):
        for name, measured in rates.items():
            command = [sys.executable, *sys.argv, "--variant", name]
            measured.append(float(subprocess.check_output(command)))
    first = next(iter(rates.values()))
    for name, measured in rates.items():
        ratios = [ours / base for ours, base in zip(measured, first, strict=True)]
        print(
            f"{name}: {statistics.median(measured):.0f} images/s,"
            f" ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


def _images_per_s(args: argparse.Namespace) -> float:
    learned, kept = VARIANTS[args.variant]
    if kept:
        keep_freed_memory()
    config = TrainConfig(
        data="random", batch_size=args.batch_size, precision=args.precision, device="cpu"
    )
    options = NetworkOptions(3, 10, args.width, shortcut_learned=learned)
    network = build_network(args.network, options)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(
        config,
        network,
        Normalize([0.5] * 3, [0.25] * 3),
        build_optimizer(network, config),
        torch.device("cpu"),
    )
    count = args.batch_size * _STEPS
    pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
    train = Split(pixels, torch.randint(0, 10, (count,)))
    train_epoch(0, trainer, train)  # warm-up
    started = time.perf_counter()
    train_epoch(1, trainer, train)
    images_per_s: float = count / (time.perf_counter() - started)
    return images_per_s


if __name__ == "__main__":
    main()

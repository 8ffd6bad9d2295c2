"""What learned skip weights cost in training, and what the loop costs beside its bare steps.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --network resnet20 --width 2 --precision bfloat16

Runs each variant in a process of its own, in turns, and prints images/s and ratios, median and
range over the rounds. Weights and pixels are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rates import bare_rate, describe_machine, loop_rate, make_config, random_run

from training.allocator import keep_freed_memory


@dataclass(frozen=True)
class Variant:
    """What is timed.

    Attributes:
        values: Of the configuration.
        bare: Forward, backward and optimizer step alone, on one batch.
        keeps_memory: glibc keeps what is freed, as in ``adaresnet train``.
    """

    values: dict[str, Any] = field(default_factory=dict)
    bare: bool = False
    keeps_memory: bool = True


VARIANTS = {
    "learned": Variant(),
    "plain": Variant({"preset": "plain"}),
    "channel": Variant({"granularity": "channel"}),
    "bare": Variant(bare=True),
    "returned": Variant(keeps_memory=False),
}
RATIOS = (
    ("learned scales / plain twin", "learned", "plain"),
    ("a scale a channel / plain twin", "channel", "plain"),
    ("training loop / bare steps", "learned", "bare"),
    ("freed memory returned / kept", "returned", "learned"),
)


def main() -> None:
    """Compare the variants, or with --variant measure one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=["resnet20", "fast8"])
    parser.add_argument("--width", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a variant")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", choices=tuple(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(_images_per_s(args, args.network[0]))
        return
    print(describe_machine(_device(args)))
    for network in args.network:
        _compare(network, args)


def _compare(network: str, args: argparse.Namespace) -> None:
    """Time the variants of one network in turns, and print them."""
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    own = [f"--{key}={getattr(args, key)}" for key in ("width", "precision", "device", "steps")]
    own.append(f"--batch-size={args.batch_size}")
    for _ in range(args.rounds):
        for name, measured in rates.items():
            command = [sys.executable, __file__, "--network", network, *own, "--variant", name]
            measured.append(float(subprocess.check_output(command)))
    print(f"{network} x{args.width:g}, batch {args.batch_size}, {args.precision}:")
    for name, measured in rates.items():
        print(f"  {name:<9} {statistics.median(measured):>9.0f} images/s")
    for words, ours, base in RATIOS:
        ratios = [a / b for a, b in zip(rates[ours], rates[base], strict=True)]
        low, high = min(ratios), max(ratios)
        print(f"  {words:<31} {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


def _images_per_s(args: argparse.Namespace, network: str) -> float:
    variant = VARIANTS[args.variant]
    if variant.keeps_memory:
        keep_freed_memory()
    values = {
        "network": network,
        "width": args.width,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "compile": "off",
        **variant.values,
    }
    with tempfile.TemporaryDirectory() as folder:
        run = random_run(make_config(Path(folder), values), args.steps, _device(args))
        if variant.bare:
            return bare_rate(run, args.steps, args.steps)
        return loop_rate(run)


def _device(args: argparse.Namespace) -> torch.device:
    if args.device != "auto":
        return torch.device(args.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()

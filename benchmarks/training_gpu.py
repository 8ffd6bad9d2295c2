"""How fast training is on a GPU, beside bare steps and beside airbench's published figures.

    python benchmarks/training_gpu.py --data DATA/cifar10

Prints machine and versions; the loop's rate against a bare compiled loop for the network of
``--recipe modern`` and for ResNet-18; and with ``--data`` the time to 94 % on CIFAR-10.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rates import bare_rate, describe_machine, loop_rate, make_config, random_run

from training.checkpoint import RunState
from training.config import TrainConfig, load_config
from training.loop import fit

TARGET = 0.94
FLOOR = 0.6  # of a bare compiled loop's rate
# Jordan 2024 (arXiv 2404.00498), on one A100: what these times are put beside.
PUBLISHED = (
    "published, on an A100: airbench94 2.59 s to 94.01 %, airbench95 10.4 s, airbench96 27.3 s;"
    " a standard ResNet-18 7 min to 96.0 %"
)
RUNS: dict[str, dict[str, Any]] = {
    "fast8": {"network": "fast8", "batch_size": 512, "ema": 0.95, "label_smoothing": 0.2},
    "resnet18-cifar": {"network": "resnet18-cifar", "batch_size": 512},
}


def main() -> int:
    """Print the figures; returns 1 where there is no GPU, or the loop is below its floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="CIFAR-10, as for training; without it no time to 94 %%")
    parser.add_argument("--runs", type=int, default=3, help="runs to 94 %%, with a seed each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few steps: does it run at all?")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("training_gpu: this needs a CUDA GPU, and PyTorch finds none", file=sys.stderr)
        return 1
    device = torch.device(args.device)
    print(describe_machine(device))
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        for name in RUNS:
            kept = _compare(name, Path(folder), device, args) and kept
        if args.data is None:
            print("time to 94 %: give --data with CIFAR-10")
        else:
            _time_to_target(Path(folder), device, args)
    print(PUBLISHED)
    return 0 if kept else 1


def _compare(name: str, folder: Path, device: torch.device, args: argparse.Namespace) -> bool:
    """Rate of the loop beside that of bare compiled steps, in turns; says if it keeps the floor."""
    steps = 2 if args.quick else 200
    values = {**RUNS[name], "precision": "bfloat16", **_compiled(device)}
    if args.quick:
        values |= {"batch_size": 8}
    ratios, rates = [], []
    for _ in range(args.rounds):
        run = random_run(make_config(folder, values), steps, device)
        bare = bare_rate(run, 2 if args.quick else 50, steps)
        rates.append(loop_rate(run))
        ratios.append(rates[-1] / bare)
    ratio = sorted(ratios)[len(ratios) // 2]
    print(
        f"{name}: {sorted(rates)[len(rates) // 2]:.0f} images/s in the loop, {ratio:.3f}"
        f" ({min(ratios):.3f} to {max(ratios):.3f}) of bare steps; the floor is {FLOOR}"
    )
    return args.quick or ratio >= FLOOR


def _time_to_target(folder: Path, device: torch.device, args: argparse.Namespace) -> None:
    """Train by the recipe; the first run, of an epoch, is for the compiler and not counted."""
    for seed in range(-1, args.runs):
        config = load_config(
            ["--data", args.data, "--out", str(folder / f"run{seed}"), "--no-tensorboard"],
            "modern",
            program="training_gpu",
        )
        values: dict[str, Any] = {"device": device.type, "seed": max(seed, 0), **_compiled(device)}
        if seed < 0 or args.quick:
            values["epochs"] = 1
        config = TrainConfig.model_construct(**{**dict(config), **values})
        started = time.perf_counter()
        state = fit(config, lambda line: None)
        if seed >= 0:
            print(f"--recipe modern, seed {seed}: {_say_times(state)}; {_since(started)} in all")


def _say_times(state: RunState) -> str:
    """When the target was reached, and what was reached in the end."""
    spent_s, reached = 0.0, f"{TARGET:.0%} not reached"
    for record in state.history:
        spent_s += record.duration_s
        if record.test_accuracy >= TARGET:
            reached = f"{TARGET:.0%} in {spent_s:.2f} s and {record.epoch} epochs, tests included"
            break
    whole_s = sum(record.duration_s for record in state.history)
    last = state.history[-1]
    return f"{reached}; {last.test_accuracy:.2%} after {last.epoch} epochs, {whole_s:.2f} s"


def _since(started: float) -> str:
    return f"{time.perf_counter() - started:.1f} s with reading the data"


def _compiled(device: torch.device) -> dict[str, str]:
    """Compiling is what a GPU's figures are about; on a CPU it would only take long."""
    return {"compile": "on" if device.type == "cuda" else "off"}


if __name__ == "__main__":
    sys.exit(main())

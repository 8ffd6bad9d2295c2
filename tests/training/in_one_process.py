"""Run by test_needs.py in a process of its own: how much memory training steps take."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from training.allocator import keep_freed_memory
from training.config import TrainConfig
from training.data.augment import Normalize
from training.droppath import Droppath
from training.needs import estimate_memory
from training.networks.network import NetworkOptions
from training.networks.registry import build_network
from training.optim import build_optimizer
from training.processes import Processes
from training.randomness import generator_of
from training.step import Trainer, train_step


def train_a_little(config: TrainConfig, image_px: int, steps: int) -> None:
    network = build_network(config.network, NetworkOptions(3, 10, image_px))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(
        config=config,
        network=network,
        model=network,
        normalize=Normalize([0.5] * 3, [0.25] * 3),
        optimizer=build_optimizer(network, config),
        droppath=Droppath(network, config),
        averaged=None,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        processes=Processes(0, 1, torch.device("cpu")),
    )
    for step in range(steps):
        shape = (config.batch_size, image_px, image_px, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        labels = torch.randint(0, 10, (config.batch_size,))
        train_step(trainer, pixels, labels, step, steps, generator_of(0, step))


def memory_bytes(field: str) -> int:
    """A row of /proc/self/status."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith(field))


def main() -> None:
    """Print estimated and measured bytes."""
    name, images, image_px, precision = sys.argv[1:]
    keep_freed_memory()
    config = TrainConfig(
        data="x",
        network=name,
        batch_size=int(images),
        precision=precision,
        device="cpu",
    )
    small = config.model_copy(update={"network": "resnet8", "batch_size": 2})
    train_a_little(small, int(image_px), 1)  # what libraries take at their first use
    before = memory_bytes("VmRSS")
    train_a_little(config, int(image_px), 2)
    # Not getrusage's maximum, which counts what the parent had when this process began.
    measured = memory_bytes("VmHWM") - before
    with torch.device("meta"):
        network = build_network(name, NetworkOptions(3, 10, int(image_px)))
    need = estimate_memory(config, network, (3, int(image_px), int(image_px)), 0)
    print(need.total, measured)


if __name__ == "__main__":
    main()

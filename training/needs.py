"""What a run will need: memory before it starts, time from its first steps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import TrainConfig
from training.networks.registry import AdaptiveNetwork

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryNeed:
    """An estimate of a run's memory, bytes.

    Attributes:
        data: Pixels that stay in memory.
        weights: Weights, gradients, the optimizer's state and the average.
        activations: What the forward pass keeps for the backward pass, at the largest part of a
            batch.
    """

    data: int
    weights: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.data + self.weights + self.activations

    def __str__(self) -> str:
        """In words."""
        return (
            f"about {_gb(self.total)} of memory: activations {_gb(self.activations)}, weights and"
            f" optimizer {_gb(self.weights)}, data {_gb(self.data)}"
        )


def estimate_memory(
    config: TrainConfig, network: AdaptiveNetwork, shape: tuple[int, int, int], data_bytes: int
) -> MemoryNeed:
    """Estimate without computing anything: shapes are enough.

    Args:
        config: The run.
        network: On the meta device, in training mode.
        shape: Channels, height and width of an image.
        data_bytes: Pixels that stay in memory.
    """
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    copies = 2 + (1 if config.optimizer == "sgd" else 2) + (1 if config.ema else 0)
    images = -(-config.batch_size // config.accumulate)
    # Under autocast most of what is kept has half the bytes.
    factor = 1.0 if config.precision == "float32" else 0.55
    activations = int(_saved_bytes(network, images, shape) * factor)
    return MemoryNeed(data_bytes, weights * copies, activations)


def free_bytes(device: torch.device) -> int | None:
    """Memory that a run may take, bytes; None where the system doesn't say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = []
    try:
        rows = Path("/proc/meminfo").read_text().splitlines()
        free.append(next(int(r.split()[1]) * 1024 for r in rows if r.startswith("MemAvailable")))
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            free.append(int(limit) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, StopIteration, ValueError):
        if not free and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(free) if free else None


def say_duration(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _saved_bytes(network: nn.Module, images: int, shape: tuple[int, int, int]) -> int:
    """Bytes that autograd keeps, each tensor once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = torch.zeros(images, *shape, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(x)
        F.cross_entropy(logits, torch.zeros(images, dtype=torch.int64, device="meta"))
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.1f} MB"

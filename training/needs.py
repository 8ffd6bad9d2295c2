"""What a run will need: memory before it starts, time from its first steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import TrainConfig
from training.data.memory import free_host_bytes
from training.networks.registry import AdaptiveNetwork

_EVALUATED = 500
# Besides what the backward pass needs there are gradients of activations, scratch space and freed
# memory in pieces. Measured on a CPU: 1.1 to 1.8 times what is needed; on a GPU not yet.
_BESIDES = 1.3
_SAFE = 0.9  # of what is free: the estimate leaves some things out
_FEWEST = 2  # batch norm needs two


@dataclass(frozen=True)
class MemoryNeed:
    """An estimate of a run's memory, bytes.

    Attributes:
        data: Pixels that stay in memory.
        weights: Weights, gradients, the optimizer's state and the average.
        activations: What the forward pass keeps for the backward pass, at the largest part of a
            batch, and what comes and goes beside it.
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
    config: TrainConfig,
    network: AdaptiveNetwork,
    shape: tuple[int, int, int],
    data_bytes: int,
    processes: int = 1,
) -> MemoryNeed:
    """Estimate what one process needs, without computing anything: shapes are enough.

    Left out: the program and its libraries (0.3 GB on a CPU, more for CUDA), the test images, what
    ``torch.compile`` takes while it compiles, buckets of gradients in several processes.

    Args:
        config: The run.
        network: On the meta device, in training mode.
        shape: Channels, height and width of an image.
        data_bytes: Pixels that stay in memory.
        processes: How many share a batch.
    """
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    copies = 2 + (1 if config.optimizer == "sgd" else 2) + (1 if config.ema else 0)
    images = _images_a_part(config, processes)
    # Under autocast most of what is kept has half the bytes.
    factor = 1.0 if config.precision == "float32" else 0.55
    activations = int(_saved_bytes(network, images, shape) * factor * _BESIDES)
    copied = int(weights * copies * _BESIDES)
    return MemoryNeed(data_bytes, copied, activations)


def _images_a_part(config: TrainConfig, processes: int) -> int:
    """Images that a process holds activations of at a time."""
    return -(-config.batch_size // processes // config.accumulate)


def evaluation_images(config: TrainConfig, processes: int) -> int:
    """Images to evaluate at a time: many, but in less memory than training takes."""
    return min(_EVALUATED, 2 * _images_a_part(config, processes))


def say_fitting(need: MemoryNeed, free: int, config: TrainConfig, processes: int) -> str:
    """What would fit instead, in words.

    Args:
        need: The estimate, larger than ``free``.
        free: Memory for one process, bytes.
        config: The run.
        processes: How many share a batch.
    """
    room = max(free - need.data - need.weights, 0)
    images = _images_a_part(config, processes)
    fitting = int(images * _SAFE * room / max(need.activations, 1))
    if fitting < _FEWEST:
        return "not even small batches fit: choose a smaller network or --image-px"
    least = -(-config.batch_size // processes // fitting)
    parts = next(n for n in range(least, config.batch_size + 1) if config.batch_size % n == 0)
    return (
        f"{fitting} images at a time fit: lower --batch-size to"
        f" {fitting * config.accumulate * processes}, or raise --accumulate to {parts}"
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory that a run may take, bytes; None where the system doesn't say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_host_bytes()


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

"""Averages that make evaluation steadier: of weights over steps, and of batch norm statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


class AveragedWeights:
    """An exponential moving average of a network's weights and statistics.

    Attributes:
        network: A copy that holds the average, in evaluation mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin at the network's weights."""
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._pairs = [
            (ours, theirs)
            for (_, ours), (_, theirs) in zip(
                tensors_of(self.network), tensors_of(network), strict=True
            )
        ]
        self._floats = [pair for pair in self._pairs if pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step; the first steps count more, so that they are left."""
        decay = min(self._decay, (1 + step) / (10 + step))
        ours, theirs = [a for a, _ in self._floats], [b.detach() for _, b in self._floats]
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for average, now in self._pairs:
            if not average.is_floating_point():
                average.copy_(now)


def tensors_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by name, each once however many modules share it."""
    yield from network.named_parameters()
    yield from network.named_buffers()


@torch.no_grad()
def reestimate_norms(network: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Replace batch norm's running statistics by plain averages over batches.

    Args:
        network: Weights as they will be evaluated.
        inputs: Normalised batches, float [N, C, H, W].
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    for norm in norms:
        norm.reset_running_stats()
    network.train()
    for seen, x in enumerate(inputs, start=1):
        for norm in norms:
            norm.momentum = 1 / seen  # a cumulative average
        network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)

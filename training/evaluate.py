"""What a PyTorch network says of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.data.augment import Normalize, to_channels
from training.data.dataset import AnySplit


@torch.no_grad()
def predict_logits(
    network: nn.Module,
    normalize: Normalize,
    pixels: Tensor,
    *,
    grey: bool,
    batch_size: int = 500,
) -> Tensor:
    """Run a network in evaluation mode over plain pixels.

    Args:
        network: Normalised pixels to logits.
        normalize: The run's normalisation.
        pixels: uint8 [N, H, W, 3].
        grey: The network takes one channel.
        batch_size: Images a step.

    Returns:
        Logits, float32 [N, classes], on the CPU.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    parts = [
        network(normalize(to_channels(chunk.to(device), grey=grey))).float().cpu()
        for chunk in torch.split(pixels, batch_size)
    ]
    network.train(was_training)
    return torch.cat(parts)


def split_logits(
    network: nn.Module,
    normalize: Normalize,
    split: AnySplit,
    *,
    grey: bool,
    batch_size: int = 500,
) -> Tensor:
    """``predict_logits`` over a whole split, in memory or streamed."""
    return torch.cat(
        [
            predict_logits(network, normalize, chunk, grey=grey, batch_size=batch_size)
            for chunk in split.chunks()
        ]
    )


def accuracy(
    network: nn.Module,
    normalize: Normalize,
    split: AnySplit,
    *,
    grey: bool,
    batch_size: int = 500,
) -> float:
    """Top-1 accuracy on a split, in [0, 1]; ``batch_size`` images a step."""
    logits = split_logits(network, normalize, split, grey=grey, batch_size=batch_size)
    return float((logits.argmax(dim=1) == split.labels.cpu()).double().mean())

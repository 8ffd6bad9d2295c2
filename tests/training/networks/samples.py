"""Small networks with weights that no symmetry hides."""

from __future__ import annotations

import torch
from torch import nn

from training.networks.network import NetworkOptions
from training.networks.scale_options import ScaleOptions
from training.networks.shortcut import Scale

PLAIN = ScaleOptions(granularity="fixed")


def options(
    scales: ScaleOptions = PLAIN,
    *,
    channels: int = 3,
    classes: int = 3,
    image_px: int = 16,
    width: float = 0.05,
    padding: bool = False,
    zero_gamma: bool = False,
) -> NetworkOptions:
    """Options of a network that runs in milliseconds."""
    return NetworkOptions(
        channels=channels,
        classes=classes,
        image_px=image_px,
        width=width,
        scales=scales,
        shortcut="padding" if padding else "projection",
        zero_gamma=zero_gamma,
    )


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> None:
    """Give batch norms statistics, factors and shifts as training might, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").uniform_(-0.3, 0.3, generator=generator)
            module.get_buffer("running_var").uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.3, generator=generator)
            if module.weight.requires_grad:
                module.weight.normal_(0.7, 0.3, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.normal_(0, 0.1, generator=generator)


@torch.no_grad()
def set_scales(network: nn.Module, mean: float, std: float, seed: int) -> None:
    """Draw the parameters of all learned scales anew."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, Scale) and module.raw.requires_grad:
            module.raw.normal_(mean, std, generator=generator)

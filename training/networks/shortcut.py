"""The learned weight of a skip connection."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShortcutScale(nn.Module):
    """Multiply a shortcut by one scalar: the paper's ``weight_tfd^ipd``.

    A learned scale is a parameter, a fixed one (1 is the plain ResNet, 2 the paper's control) a
    buffer, so that both are saved and both are read through ``value``.

    Source: AdaResNet (arXiv 2408.09958) eq. 2, one weight a block as in eq. 8.
    """

    scale: Tensor

    def __init__(self, initial: float, *, learned: bool) -> None:
        """Start at ``initial``, dimensionless."""
        super().__init__()
        scale = torch.tensor(float(initial))
        if learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    @property
    def value(self) -> float:
        """The scale now."""
        return float(self.scale.detach())

    def forward(self, shortcut: Tensor) -> Tensor:
        """Scale the shortcut, float [N, C, H, W]."""
        return shortcut * self.scale

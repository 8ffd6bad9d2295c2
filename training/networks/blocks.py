"""Residual blocks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from training.networks.shortcut import ShortcutScale

ShortcutKind = Literal["identity", "projection"]


class ConvBatchNorm(nn.Module):
    """A convolution without bias, then batch norm: the unit that folding fuses into one."""

    def __init__(self, channels_in: int, channels_out: int, kernel_px: int, stride: int) -> None:
        """Pad so that stride 1 keeps height and width."""
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel_px, stride, padding=kernel_px // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, channels_in, H, W] to [N, channels_out, H / stride, W / stride]."""
        normed: Tensor = self.norm(self.conv(x))
        return normed


class BasicBlock(nn.Module):
    """``y = relu(T(x) + w * S(x))`` with two 3 x 3 convolutions in T.

    S is the identity where the shape stays, else a projection (1 x 1 convolution, batch norm).

    Source: T and S, He et al. 2015 (arXiv 1512.03385) fig. 2; w, AdaResNet eq. 2.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, scale: ShortcutScale
    ) -> None:
        """Build one block; ``scale`` is w."""
        super().__init__()
        self.first = ConvBatchNorm(channels_in, channels_out, 3, stride)
        self.last = ConvBatchNorm(channels_out, channels_out, 3, 1)
        self.relu = nn.ReLU(inplace=True)
        same_shape = stride == 1 and channels_in == channels_out
        self.shortcut_kind: ShortcutKind = "identity" if same_shape else "projection"
        self.projection = (
            None if same_shape else ConvBatchNorm(channels_in, channels_out, 1, stride)
        )
        self.shortcut_scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, channels_in, H, W] to [N, channels_out, H / stride, W / stride]."""
        shortcut = x if self.projection is None else self.projection(x)
        branch = self.last(self.relu(self.first(x)))
        joined: Tensor = self.relu(branch + self.shortcut_scale(shortcut))
        return joined

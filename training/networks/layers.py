"""Convolution with its batch norm: the unit that networks are made of and that folding fuses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerStyle:
    """What frameworks do differently in the same layer.

    Attributes:
        conv_bias: Convolutions have a bias, though a batch norm follows.
        norm_eps: Added to the variance.
        norm_momentum: Weight of a batch in the running statistics (Keras says 1 minus this).
        biased_variance: The running variance averages biased estimates, as Keras does; PyTorch
            takes unbiased ones.
        tensorflow_padding: Stride 2 pads more on the right and below, as TensorFlow's "same" does.
    """

    conv_bias: bool = False
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    biased_variance: bool = False
    tensorflow_padding: bool = False


PYTORCH = LayerStyle()


class BiasedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose running variance averages the biased estimate, as Keras does.

    On a 1 x 1 map and a batch of 32 PyTorch's is 3 % larger.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Float [N, C, H, W] to the same shape."""
        if not self.training or self.running_var is None or self.momentum is None:
            return super().forward(input)
        # Autograd keeps the statistics that it is given, so they must not change behind its back.
        assert self.running_mean is not None
        assert self.num_batches_tracked is not None
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        output = F.batch_norm(
            input, mean, variance, self.weight, self.bias, True, self.momentum, self.eps
        )
        count = input.numel() // input.shape[1]
        with torch.no_grad():
            # What came in is momentum times the unbiased estimate, 1 / count of it too much.
            added = variance - self.running_var * (1 - self.momentum)
            self.running_var.copy_(variance - added / count)
            self.running_mean.copy_(mean)
            self.num_batches_tracked += 1
        return output


def same_pads(size_px: int, kernel_px: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding before and after, for an input of this size."""
    total = max((-(-size_px // stride) - 1) * stride + kernel_px - size_px, 0)
    return total // 2, total - total // 2


class MaxPool(nn.Module):
    """Max pool with padding that may differ on the two sides."""

    def __init__(self, kernel_px: int, stride: int, pads: tuple[int, int]) -> None:
        """``pads`` is before (left, above) and after (right, below), pixels."""
        super().__init__()
        self.kernel_px, self.stride, self.pads = kernel_px, stride, pads
        self.pad = nn.ConstantPad2d((*pads, *pads), -torch.inf) if any(pads) else nn.Identity()
        self.pool = nn.MaxPool2d(kernel_px, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C, H, W] to [N, C, H / stride, W / stride]."""
        pooled: Tensor = self.pool(self.pad(x))
        return pooled


class ConvUnit(nn.Module):
    """A convolution, then a max pool where there is one, then batch norm unless it has none."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_px: int,
        stride: int = 1,
        *,
        groups: int = 1,
        normed: bool = True,
        bias: bool | None = None,
        pool: MaxPool | None = None,
        pads: tuple[int, int] | None = None,
        style: LayerStyle = PYTORCH,
    ) -> None:
        """Pad so that stride 1 keeps height and width, unless ``pads`` says otherwise.

        ``bias`` follows the style unless it is given.
        A batch norm behind a pool has its weight fixed at 1: only so does a fold through the
        maximum stay exact, and the next layer's weights make up for it.
        """
        super().__init__()
        before, after = (kernel_px // 2,) * 2 if pads is None else pads
        symmetric = before == after
        self.pads = (before, after)
        self.pad = nn.Identity() if symmetric else nn.ZeroPad2d((before, after, before, after))
        self.conv = nn.Conv2d(
            channels_in,
            channels_out,
            kernel_px,
            stride,
            padding=before if symmetric else 0,
            groups=groups,
            bias=style.conv_bias if bias is None else bias,
        )
        self.pool = nn.Identity() if pool is None else pool
        self.norm: nn.Module = batch_norm(channels_out, style) if normed else nn.Identity()
        if pool is not None and isinstance(self.norm, nn.BatchNorm2d):
            self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, channels_in, H, W] to [N, channels_out, H / stride, W / stride]."""
        normed: Tensor = self.norm(self.pool(self.conv(self.pad(x))))
        return normed


class ConvRelu(nn.Module):
    """A convolution unit and its activation: a stem, or what joins two stages."""

    def __init__(self, unit: ConvUnit) -> None:
        """Put a ReLU behind a unit."""
        super().__init__()
        self.unit = unit
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C_in, H, W] to [N, C_out, H', W'], none negative."""
        activated: Tensor = self.relu(self.unit(x))
        return activated


class NormRelu(nn.Module):
    """Batch norm and ReLU: the pre-activation, before a branch or behind the last block."""

    def __init__(self, channels: int, style: LayerStyle = PYTORCH) -> None:
        """Take the channels of the input."""
        super().__init__()
        self.norm = batch_norm(channels, style)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C, H, W] to the same shape."""
        activated: Tensor = self.relu(self.norm(x))
        return activated


def batch_norm(channels: int, style: LayerStyle) -> nn.BatchNorm2d:
    """Batch norm in a style."""
    kind = BiasedBatchNorm if style.biased_variance else nn.BatchNorm2d
    return kind(channels, eps=style.norm_eps, momentum=style.norm_momentum)

"""What fused and folded networks compute, read off their definitions in float64 by PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.export.arrays import (
    Affine,
    Array,
    Conv,
    ConvStep,
    FoldedBlock,
    FoldedNetwork,
    FoldedPixelSkip,
    FusedBlock,
    FusedNetwork,
    Join,
    Linear,
    NormStep,
    Padding,
    Pool,
    PoolStep,
)


def conv(layer: Conv, x: Tensor) -> Tensor:
    before, after = layer.pads
    x = F.pad(x, (before, after, before, after))
    weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
    return F.conv2d(x, weight, bias, layer.stride, groups=layer.groups)


def linear(layer: Linear, x: Tensor) -> Tensor:
    return F.linear(x, torch.from_numpy(layer.weight), torch.from_numpy(layer.bias))


def pool(layer: Pool, x: Tensor) -> Tensor:
    before, after = layer.pads
    x = F.pad(x, (before, after, before, after), value=-torch.inf)
    return F.max_pool2d(x, layer.kernel_px, layer.stride)


def scaled(x: Tensor, factors: Array | None) -> Tensor:
    return x if factors is None else x * torch.from_numpy(factors)[:, None, None]


def norm_relu(norm: Affine, x: Tensor) -> Tensor:
    return F.relu(scaled(x, norm.factor) + torch.from_numpy(norm.shift)[:, None, None])


def shortcut_of(shortcut: Conv | Padding | None, x: Tensor, h: Tensor) -> Tensor:
    if isinstance(shortcut, Conv):
        return conv(shortcut, h)
    if shortcut is None:
        return x
    x = x[:, :, :: shortcut.stride, :: shortcut.stride]
    return F.pad(x, (0, 0, 0, 0, shortcut.before, shortcut.behind))


def branch_of(branch: tuple[Conv, ...], x: Tensor) -> Tensor:
    for index, layer in enumerate(branch):
        x = conv(layer, F.relu(x) if index else x)
    return x


def joined(join: Join, x: Tensor, y: Tensor) -> Tensor:
    return {Join.ADD: x + y, Join.SUB: x - y, Join.NONE: x}[join]


def block_of(block: FusedBlock | FoldedBlock, x: Tensor) -> Tensor:
    h = x if block.pre is None else norm_relu(block.pre, x)
    branch = branch_of(block.branch, h)
    if isinstance(block, FusedBlock):
        shortcut = scaled(shortcut_of(block.shortcut, x, h), block.shortcut_scale)
        y = scaled(branch, block.branch_scale) + shortcut
    elif block.join is Join.NONE:
        y = branch
    else:
        shortcut = scaled(shortcut_of(block.shortcut, x, h), block.kept_mul)
        y = joined(block.join, branch, shortcut)
    return y if block.pre is not None else F.relu(y)


def run(network: FusedNetwork | FoldedNetwork, pixels: Tensor) -> Tensor:
    """Logits float64 [N, classes] of pixels float64 [N, 3, H, W]."""
    image = x = conv(network.normalization, pixels)
    for step in network.steps:
        if isinstance(step, ConvStep):
            x = conv(step.conv, x)
            x = x if step.pool is None else pool(step.pool, x)
            x = F.relu(x) if step.relu else x
        elif isinstance(step, PoolStep):
            x = pool(step.pool, x)
        elif isinstance(step, NormStep):
            x = norm_relu(step.norm, x)
        else:
            x = block_of(step, x)
    x = x.mean(dim=(2, 3))
    skip = network.pixel_skip
    if skip is not None:
        drawn = F.relu(linear(skip.dense, x)).reshape(-1, *skip.shape)
        if isinstance(skip, FoldedPixelSkip):
            drawn, image = scaled(drawn, skip.drawn_mul), scaled(image, skip.image_mul)
            y = drawn if skip.join is Join.NONE else joined(skip.join, image, drawn)
        else:
            y = scaled(drawn, skip.branch_scale) + scaled(image, skip.shortcut_scale)
        x = y.flatten(1)
    return linear(network.classifier, x)

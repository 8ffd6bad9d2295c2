"""Read a trained PyTorch network into the plain arrays that folding works on."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from training.data.augment import LUMA
from training.export.fold import Array, Conv, FusedBlock, FusedNetwork, Linear, fold_batch_norm
from training.networks.blocks import ConvBatchNorm
from training.networks.cifar import CifarResNet


def fuse_network(network: CifarResNet, mean: list[float], std: list[float]) -> FusedNetwork:
    """Fold batch norm, and put the normalisation in front as a 1 x 1 convolution.

    Args:
        network: Trained; its running statistics are used.
        mean: One value a channel, of pixels in [0, 1].
        std: One value a channel.
    """
    blocks = tuple(
        FusedBlock(
            name=name,
            first=_fused(block.first),
            last=_fused(block.last),
            projection=None if block.projection is None else _fused(block.projection),
            shortcut_scale=block.shortcut_scale.value,
        )
        for name, block in network.named_blocks()
    )
    classifier = Linear(_array(network.classifier.weight), _array(network.classifier.bias))
    return FusedNetwork(normalization(mean, std), _fused(network.stem), blocks, classifier)


def normalization(mean: list[float], std: list[float]) -> Conv:
    """``(pixel / 255 - mean) / std`` a channel, and RGB to luma for one channel, as a convolution.

    It stands before any zero padding, so it is exact, and one operator does what would take a
    channel reduction, a division and two element-wise operators.
    """
    colors = np.array([LUMA]) if len(mean) == 1 else np.eye(3)
    weight = colors / (255.0 * np.array(std)[:, None])
    bias = -np.array(mean) / np.array(std)
    return Conv(weight[:, :, None, None], bias, stride=1, padding=0)


def _fused(pair: ConvBatchNorm) -> Conv:
    weight = _array(pair.conv.weight)
    conv = Conv(weight, np.zeros(len(weight)), pair.conv.stride[0], int(pair.conv.padding[0]))
    norm = pair.norm
    return fold_batch_norm(
        conv,
        gamma=_array(norm.weight),
        beta=_array(norm.bias),
        mean=_buffer(norm, "running_mean"),
        variance=_buffer(norm, "running_var") + norm.eps,
    )


def _buffer(module: nn.Module, name: str) -> Array:
    return _array(module.get_buffer(name))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()

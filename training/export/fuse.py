"""Read a trained PyTorch network into the plain arrays that folding works on."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from training.data.augment import LUMA
from training.export.arrays import (
    Affine,
    Array,
    Conv,
    ConvStep,
    FusedBlock,
    FusedNetwork,
    FusedPixelSkip,
    Linear,
    NormStep,
    Padding,
    Pool,
    PoolStep,
    Step,
)
from training.export.fold import FoldError, fold_batch_norm
from training.networks.blocks import ConvBlock, PaddedShortcut, PreActivationBlock
from training.networks.first_upload import FirstUpload, PixelSkip
from training.networks.layers import ConvRelu, ConvUnit, MaxPool, NormRelu
from training.networks.registry import AdaptiveNetwork
from training.networks.shortcut import Scale


def fuse_network(network: AdaptiveNetwork, mean: list[float], std: list[float]) -> FusedNetwork:
    """Fold batch norm, and put the normalisation in front as a 1 x 1 convolution.

    Args:
        network: Trained; its running statistics are used.
        mean: One value a channel, of pixels in [0, 1].
        std: One value a channel.

    Raises:
        FoldError: A batch norm behind a max pool has a factor that is not positive.
    """
    if isinstance(network, FirstUpload):
        body, skip = network.pixel_skip.body, _pixel_skip(network.pixel_skip)
    else:
        body, skip = network.body, None
    steps = tuple(_step(name, module) for name, module in body.items())
    classifier = _linear(network.classifier)
    return FusedNetwork(normalization(mean, std), steps, classifier, skip)


def normalization(mean: list[float], std: list[float]) -> Conv:
    """``(pixel / 255 - mean) / std`` a channel, and RGB to luma for one channel, as a convolution.

    It stands before any zero padding, so it is exact, and one operator does what would take a
    channel reduction, a division and two element-wise operators.
    """
    colors = np.array([LUMA]) if len(mean) == 1 else np.eye(3)
    weight = colors / (255.0 * np.array(std)[:, None])
    return Conv(weight[:, :, None, None], -np.array(mean) / np.array(std))


def _step(name: str, module: nn.Module) -> Step:
    if isinstance(module, ConvRelu):
        pool = module.unit.pool
        return ConvStep(
            name, _fused(module.unit), _pool(pool) if isinstance(pool, MaxPool) else None
        )
    if isinstance(module, ConvUnit):
        return ConvStep(name, _fused(module), relu=False)
    if isinstance(module, MaxPool):
        return PoolStep(name, _pool(module))
    if isinstance(module, NormRelu):
        return NormStep(name, _affine(module.norm))
    assert isinstance(module, ConvBlock), name
    return _block(name, module)


def _block(name: str, block: ConvBlock) -> FusedBlock:
    branch = tuple(_fused(unit) for unit in block.units())
    channels = branch[-1].channels_out
    shortcut: Conv | Padding | None = None
    if isinstance(block.shortcut, ConvUnit):
        shortcut = _fused(block.shortcut)
    elif isinstance(block.shortcut, PaddedShortcut):
        padded = block.shortcut
        shortcut = Padding(padded.stride, padded.before, padded.behind)
    return FusedBlock(
        name=name,
        pre=_affine(block.pre.norm) if isinstance(block, PreActivationBlock) else None,
        branch=branch,
        shortcut=shortcut,
        shortcut_scale=_scale(block.shortcut_scale, channels),
        branch_scale=_scale(block.branch_scale, channels),
    )


def _pixel_skip(skip: PixelSkip) -> FusedPixelSkip:
    channels = skip.shape[0]
    return FusedPixelSkip(
        dense=_linear(skip.dense),
        shape=skip.shape,
        shortcut_scale=_scale(skip.shortcut_scale, channels),
        branch_scale=_scale(skip.branch_scale, channels),
    )


def _scale(scale: Scale | None, channels: int) -> Array:
    """One factor a channel, whatever the granularity; 1 where there is no scale."""
    if scale is None:
        return np.ones(channels)
    return np.broadcast_to(np.array(scale.values()), (channels,)).copy()


def _pool(pool: MaxPool) -> Pool:
    return Pool(pool.kernel_px, pool.stride, pool.pads)


def _fused(unit: ConvUnit) -> Conv:
    module = unit.conv
    weight = _array(module.weight)
    bias = np.zeros(len(weight)) if module.bias is None else _array(module.bias)
    conv = Conv(weight, bias, module.stride[0], unit.pads, module.groups)
    if not isinstance(unit.norm, nn.BatchNorm2d):
        return conv
    norm = unit.norm
    if isinstance(unit.pool, MaxPool) and not (_array(norm.weight) > 0).all():
        raise FoldError("a batch norm behind a max pool has a weight that is not positive")
    return fold_batch_norm(
        conv,
        gamma=_array(norm.weight),
        beta=_array(norm.bias),
        mean=_buffer(norm, "running_mean"),
        variance=_buffer(norm, "running_var") + norm.eps,
    )


def _affine(norm: nn.BatchNorm2d) -> Affine:
    factor = _array(norm.weight) / np.sqrt(_buffer(norm, "running_var") + norm.eps)
    return Affine(factor, _array(norm.bias) - _buffer(norm, "running_mean") * factor)


def _linear(layer: nn.Linear) -> Linear:
    return Linear(_array(layer.weight), _array(layer.bias))


def _buffer(module: nn.Module, name: str) -> Array:
    return _array(module.get_buffer(name))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()

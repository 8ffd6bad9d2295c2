from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from training.networks.keras import KERAS
from training.networks.layers import (
    BiasedBatchNorm,
    ConvUnit,
    MaxPool,
    NormRelu,
    batch_norm,
    same_pads,
)

Floats = NDArray[np.float64]


@pytest.mark.parametrize(("kernel_px", "stride"), list(itertools.product(range(1, 8), range(1, 4))))
def test_same_padding_is_tensorflows(kernel_px, stride):
    # As tf.nn's documentation gives it, case by case.
    for size_px in range(1, 41):
        left_over = size_px % stride
        total = max(kernel_px - (left_over or stride), 0)
        before, after = same_pads(size_px, kernel_px, stride)
        assert (before, after) == (total // 2, total - total // 2)
        if kernel_px >= stride:
            assert (size_px + before + after - kernel_px) // stride + 1 == -(-size_px // stride)


def convolved(x: Floats, weight: Floats, stride: int, pads: tuple[int, int]) -> Floats:
    """The definition of a convolution, [N, C, H, W] by [O, C, k, k]."""
    x = np.pad(x, ((0, 0), (0, 0), pads, pads))
    k = weight.shape[2]
    rows = range(0, x.shape[2] - k + 1, stride)
    columns = range(0, x.shape[3] - k + 1, stride)
    out = np.empty((len(x), len(weight), len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = x[:, :, row : row + k, column : column + k]
            out[:, :, i, j] = np.einsum("nchw,ochw->no", window, weight)
    return out


@pytest.mark.parametrize("pads", [(0, 1), (1, 1), (2, 3), (0, 0)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_pads_each_side_as_told(pads, stride, rng):
    unit = ConvUnit(2, 3, 3, stride, normed=False, pads=pads).double()
    x = rng.normal(size=(2, 2, 7, 7))
    expected = convolved(x, unit.conv.weight.detach().numpy(), stride, pads)
    with torch.no_grad():
        assert np.allclose(unit(torch.from_numpy(x)).numpy(), expected)


def test_a_convolution_keeps_the_size_by_default():
    assert ConvUnit(1, 1, 5)(torch.zeros(2, 1, 9, 9)).shape == (2, 1, 9, 9)
    assert ConvUnit(1, 1, 3, 2)(torch.zeros(2, 1, 9, 9)).shape == (2, 1, 5, 5)


@pytest.mark.parametrize("pads", [(0, 1), (1, 1), (0, 0)])
def test_a_max_pool_never_sees_its_padding(pads, rng):
    x = rng.normal(-5, 1, size=(2, 2, 8, 8))  # all below the zero that padding must not be
    padded = np.pad(x, ((0, 0), (0, 0), pads, pads), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    expected = windows[:, :, ::2, ::2].max(axis=(4, 5))
    pooled = MaxPool(3, 2, pads)(torch.from_numpy(x)).numpy()
    assert np.array_equal(pooled, expected)


def test_a_pool_stands_before_the_batch_norm_and_fixes_its_weight():
    unit = ConvUnit(3, 4, 3, pool=MaxPool(2, 2, (0, 0)))
    x = torch.randn(4, 3, 8, 8)
    expected = unit.norm(nn.functional.max_pool2d(unit.conv(x), 2))
    assert torch.allclose(unit(x), expected)
    assert isinstance(unit.norm, nn.BatchNorm2d)
    assert not unit.norm.weight.requires_grad
    assert unit.norm.bias.requires_grad


class TestBiasedBatchNorm:
    def test_statistics_are_keras_s(self, rng):
        norm = BiasedBatchNorm(3, eps=1e-3, momentum=0.01).double()
        mean, variance = np.zeros(3), np.ones(3)
        for images in (4, 2, 2):
            x = rng.normal(2, 3, size=(images, 3, 1, 1))
            now_mean, now_variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
            # keras.layers.BatchNormalization: moving = moving * 0.99 + batch * 0.01
            mean = mean * 0.99 + now_mean * 0.01
            variance = variance * 0.99 + now_variance * 0.01
            normed = (x - now_mean[:, None, None]) / np.sqrt(now_variance[:, None, None] + 1e-3)
            with torch.no_grad():
                assert np.allclose(norm(torch.from_numpy(x)).numpy(), normed)
            assert np.allclose(norm.get_buffer("running_mean").numpy(), mean)
            assert np.allclose(norm.get_buffer("running_var").numpy(), variance)
        assert int(norm.get_buffer("num_batches_tracked")) == 3
        norm.eval()
        x = rng.normal(size=(1, 3, 2, 2))
        expected = (x - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 1e-3)
        with torch.no_grad():
            assert np.allclose(norm(torch.from_numpy(x)).numpy(), expected)
        assert np.allclose(norm.get_buffer("running_mean").numpy(), mean)

    def test_gradients_are_those_of_batch_norm(self):
        torch.manual_seed(0)
        ours, theirs = BiasedBatchNorm(3), nn.BatchNorm2d(3)
        gradients = []
        for norm in (ours, theirs):
            x = torch.randn(4, 3, 2, 2, generator=torch.manual_seed(1)).requires_grad_()
            # Twice through: a second pass must not disturb what the first one has kept.
            loss = (norm(x) * norm(2 * x + 1).tanh()).square().sum()
            loss.backward()
            assert x.grad is not None
            assert norm.weight.grad is not None
            gradients.append((x.grad, norm.weight.grad))
        for mine, other in zip(*gradients, strict=True):
            assert torch.allclose(mine, other, atol=1e-5)
        assert float(gradients[0][0].abs().max()) > 0.01

    def test_a_cumulative_average_can_be_asked_for(self):
        norm = BiasedBatchNorm(2, momentum=None)
        norm(torch.randn(4, 2, 1, 1))
        assert int(norm.get_buffer("num_batches_tracked")) == 1


def test_styles():
    keras, pytorch = ConvUnit(2, 4, 3, style=KERAS), ConvUnit(2, 4, 3)
    assert keras.conv.bias is not None
    assert pytorch.conv.bias is None
    assert ConvUnit(2, 4, 3, bias=False, style=KERAS).conv.bias is None
    norm = batch_norm(4, KERAS)
    assert isinstance(norm, BiasedBatchNorm)
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)  # Keras counts momentum the other way round
    plain = NormRelu(4).norm
    assert type(plain) is nn.BatchNorm2d
    assert (plain.eps, plain.momentum) == (1e-5, 0.1)

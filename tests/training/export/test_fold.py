"""Folding keeps the function, for any weights and any scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.export.fold import (
    SAFE_SCALE,
    Conv,
    FoldedNetwork,
    FoldError,
    FusedBlock,
    FusedNetwork,
    Join,
    Linear,
    fold_batch_norm,
    fold_network,
)

SCALES = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0, -0.5, 1e-30, -1e-30, 1e30, 5e-324]),
    st.floats(-4, 4),
    st.floats(-1e6, 1e6),
)


def conv(rng: np.random.Generator, into: int, out: int, size: int, stride: int = 1) -> Conv:
    weight = rng.normal(0, 0.4, (out, into, size, size))
    return Conv(weight, rng.normal(0, 0.2, out), stride, size // 2)


def random_network(scales: list[float], projections: set[int], seed: int) -> FusedNetwork:
    """Blocks of 4 channels; those in ``projections`` have a projection shortcut, others none."""
    rng = np.random.default_rng(seed)
    blocks = tuple(
        FusedBlock(
            name=f"block{index}",
            first=conv(rng, 4, 4, 3, 2 if index in projections else 1),
            last=conv(rng, 4, 4, 3),
            projection=conv(rng, 4, 4, 1, 2) if index in projections else None,
            shortcut_scale=scale,
        )
        for index, scale in enumerate(scales)
    )
    return FusedNetwork(
        normalization=conv(rng, 3, 3, 1),
        stem=conv(rng, 3, 4, 3),
        blocks=blocks,
        classifier=Linear(rng.normal(0, 1, (5, 4)), rng.normal(0, 1, 5)),
    )


def apply(layer: Conv, x: Tensor) -> Tensor:
    weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding)


def head(network: FusedNetwork | FoldedNetwork, x: Tensor) -> Tensor:
    pooled = x.mean(dim=(2, 3))
    weight, bias = network.classifier.weight, network.classifier.bias
    return F.linear(pooled, torch.from_numpy(weight), torch.from_numpy(bias))


def run_fused(network: FusedNetwork, x: Tensor) -> Tensor:
    """The network as the paper writes it: relu(T(x) + w S(x))."""
    x = F.relu(apply(network.stem, apply(network.normalization, x)))
    for block in network.blocks:
        shortcut = x if block.projection is None else apply(block.projection, x)
        branch = apply(block.last, F.relu(apply(block.first, x)))
        x = F.relu(branch + block.shortcut_scale * shortcut)
    return head(network, x)


def run_folded(network: FoldedNetwork, x: Tensor) -> Tensor:
    """The network as the graph has it."""
    x = F.relu(apply(network.stem, apply(network.normalization, x)))
    for block in network.blocks:
        shortcut = x if block.projection is None else apply(block.projection, x)
        joined = apply(block.last, F.relu(apply(block.first, x)))
        if block.kept_mul != 1.0:
            shortcut = shortcut * block.kept_mul
        if block.join is Join.ADD:
            joined = joined + shortcut
        elif block.join is Join.SUB:
            joined = joined - shortcut
        x = F.relu(joined)
    return head(network, x)


@given(
    scales=st.lists(SCALES, min_size=1, max_size=6),
    projections=st.sets(st.integers(0, 5), max_size=2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_folding_keeps_the_logits(scales, projections, seed):
    network = random_network(scales, projections, seed)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.manual_seed(seed))
    expected = run_fused(network, x)
    # Products of huge scales overflow float32 in the trained network just as in the folded one.
    if not torch.isfinite(expected).all() or expected.abs().max() > 1e30:
        return
    try:
        folded = fold_network(network)
    except FoldError:
        assert max(map(abs, scales)) > 1e5
        return
    error = (run_folded(folded, x) - expected).abs().max()
    assert error <= 1e-9 * max(1.0, float(expected.abs().max()))


@given(st.lists(st.floats(-4, 4).filter(lambda w: abs(w) > 0.1), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_ordinary_scales_leave_no_mul(scales):
    folded = fold_network(random_network(scales, {1}, 0))
    assert folded.kept_muls == ()
    for block, w in zip(folded.blocks, scales, strict=True):
        negative_identity = w < 0 and block.projection is None
        assert block.join is (Join.SUB if negative_identity else Join.ADD)


def test_a_zero_scale_drops_the_shortcut():
    folded = fold_network(random_network([0.0, 0.0], {1}, 0))
    assert [block.join for block in folded.blocks] == [Join.NONE, Join.NONE]
    assert folded.blocks[1].projection is None


def test_a_scale_out_of_range_keeps_its_mul_and_resets():
    folded = fold_network(random_network([1e-9, -1e9, 0.5], set(), 0))
    assert folded.kept_muls == ("block0", "block1")
    assert folded.blocks[1].join is Join.SUB
    assert folded.blocks[2].output_scale == 0.5
    assert 0.5 in SAFE_SCALE


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(FoldError, match="block0"):
        fold_network(random_network([scale], set(), 0))


def test_a_weight_that_is_no_number_is_refused():
    network = random_network([1.0], set(), 0)
    broken = replace(network.stem, bias=np.full(4, np.nan))
    with pytest.raises(FoldError, match="stem"):
        fold_network(replace(network, stem=broken))


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_batch_norm_folds_into_the_convolution_before_it(seed):
    rng = np.random.default_rng(seed)
    layer = conv(rng, 3, 4, 3)
    gamma, beta, mean = rng.normal(0, 1, (3, 4))
    variance = rng.uniform(1e-3, 4, 4)
    x = torch.from_numpy(rng.normal(0, 1, (2, 3, 6, 6)))
    expected = F.batch_norm(
        apply(layer, x),
        torch.from_numpy(mean),
        torch.from_numpy(variance),
        torch.from_numpy(gamma),
        torch.from_numpy(beta),
        eps=0.0,
    )
    folded = fold_batch_norm(layer, gamma, beta, mean, variance)
    assert torch.allclose(apply(folded, x), expected, atol=1e-10)

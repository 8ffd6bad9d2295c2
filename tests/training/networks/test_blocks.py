from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.networks.samples import randomise
from training.networks.blocks import (
    ConvBlock,
    PaddedShortcut,
    PostActivationBlock,
    PreActivationBlock,
    basic_branch,
    bottleneck_branch,
)
from training.networks.layers import ConvUnit
from training.networks.scale_options import ScaleOptions
from training.networks.shortcut import Scale


def scale(value: float, channels: int) -> Scale:
    return Scale(ScaleOptions("channel", init="constant", value=value), channels)


def post(kind: str) -> PostActivationBlock:
    """A block of 4 channels, of 8 behind a change of shape; w = -0.3, v = 0.7."""
    out, stride = (4, 1) if kind in ("identity", "grouped") else (8, 2)
    shortcut: ConvUnit | PaddedShortcut | None = None
    if kind == "projection":
        shortcut = ConvUnit(4, 8, 1, 2)
    elif kind == "padding":
        shortcut = PaddedShortcut(4, 8, 2)
    groups = 2 if kind == "grouped" else 1
    branch = (
        bottleneck_branch(4, 6, out, stride, groups=groups)
        if kind in ("grouped", "projection")
        else basic_branch(4, out, stride)
    )
    return PostActivationBlock(branch, shortcut, (scale(-0.3, out), scale(0.7, out)))


def pre(*, projected: bool) -> PreActivationBlock:
    out, stride = (8, 2) if projected else (4, 1)
    branch = basic_branch(4, out, stride, last_normed=False)
    shortcut = ConvUnit(4, out, 1, stride, normed=False) if projected else None
    return PreActivationBlock(4, branch, shortcut, (scale(-0.3, out), scale(0.7, out)))


def branch_of(block: ConvBlock, x: Tensor) -> Tensor:
    """T by hand."""
    first, *rest = block.units()
    x = first(x)
    for unit in rest:
        x = unit(torch.relu(x))
    return x


@pytest.mark.parametrize("kind", ["identity", "grouped", "projection", "padding"])
def test_a_block_is_the_papers_equation(kind):
    block = post(kind).eval()
    randomise(block, 1)
    x = torch.rand(2, 4, 6, 6)
    before = x.clone()
    shortcut = x if block.shortcut is None else block.shortcut(x)
    expected = torch.relu(0.7 * branch_of(block, x) - 0.3 * shortcut)
    assert torch.allclose(block(x), expected, atol=1e-6)
    assert torch.equal(x, before)  # the ReLUs that work in place keep off the input
    assert block.shortcut_kind == ("projection" if kind == "projection" else "identity")


@pytest.mark.parametrize("projected", [False, True])
def test_a_pre_activation_block_joins_without_a_relu(projected):
    block = pre(projected=projected).eval()
    randomise(block, 2)
    x = torch.randn(2, 4, 6, 6)
    before = x.clone()
    h = torch.relu(block.pre.norm(x))
    shortcut = x if block.shortcut is None else block.shortcut(h)
    expected = 0.7 * branch_of(block, h) - 0.3 * shortcut
    assert torch.allclose(block(x), expected, atol=1e-6)
    assert bool((block(x) < 0).any())
    assert torch.equal(x, before)


def test_padding_takes_every_other_pixel_and_adds_empty_channels():
    x = torch.arange(2 * 3 * 5 * 5.0).view(2, 3, 5, 5)
    y = PaddedShortcut(3, 6, 2)(x)
    assert y.shape == (2, 6, 3, 3)
    assert torch.equal(y[:, 1:4], x[:, :, ::2, ::2])
    assert not y[:, :1].any()
    assert not y[:, 4:].any()


@pytest.mark.parametrize("block", [post("identity"), post("projection"), pre(projected=True)])
def test_a_dropped_branch_is_not_run_and_learns_nothing(block):
    x = torch.rand(4, 4, 6, 6)
    statistics = {n: b.clone() for n, b in block.branch.named_buffers()}
    block.keep = False
    out = block(x)
    out.sum().backward()
    assert all(p.grad is None for p in block.branch.parameters())
    assert block.branch_scale.raw.grad is None
    assert block.shortcut_scale.raw.grad is not None
    assert all(torch.equal(b, statistics[n]) for n, b in block.branch.named_buffers())
    block.eval()
    branch, shortcut = block.terms(x)
    assert branch is None
    joined = shortcut if isinstance(block, PreActivationBlock) else torch.relu(shortcut)
    assert torch.equal(block(x), joined)


def test_factors_a_sample_scale_the_branch_alone():
    block = pre(projected=False).eval()
    x = torch.randn(3, 4, 6, 6)
    branch, shortcut = block.terms(x)
    assert branch is not None
    block.keep = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)
    out = block(x)
    for index, factor in enumerate((0, 1, 2)):
        expected = shortcut[index] + factor * branch[index]
        assert torch.allclose(out[index], expected, atol=1e-6)


@pytest.mark.parametrize("block", [post("identity"), post("projection"), pre(projected=False)])
def test_a_zeroed_branch_adds_nothing(block):
    block.zero_branch()
    branch, _ = block.terms(torch.randn(4, 4, 6, 6))
    assert not branch.any()


def test_bottlenecks_stride_where_they_are_told():
    def strides(*, stride_first: bool) -> list[tuple[int, ...]]:
        units = bottleneck_branch(8, 4, 16, 2, groups=2, stride_first=stride_first)
        assert [unit.conv.groups for unit in units] == [1, 2, 1]
        return [unit.conv.stride for unit in units]

    assert strides(stride_first=False) == [(1, 1), (2, 2), (1, 1)]
    assert strides(stride_first=True) == [(2, 2), (1, 1), (1, 1)]


def test_what_droppath_trains_of_a_block():
    def owned(block: ConvBlock) -> set[str]:
        ids = {id(p) for m in block.branch_modules() for p in m.parameters()}
        return {name.split(".")[0] for name, p in block.named_parameters() if id(p) in ids}

    assert owned(post("projection")) == {"branch"}
    # The pre-activation belongs to the branch, unless the shortcut reads it as well.
    assert owned(pre(projected=False)) == {"branch", "pre"}
    assert owned(pre(projected=True)) == {"branch"}
    assert not any(isinstance(m, nn.Conv2d) for m in pre(projected=False).pre.modules())

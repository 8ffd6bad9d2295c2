"""Folding keeps the function: any steps in any order, any scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.training.export import reference
from training.export.arrays import (
    Affine,
    Array,
    Conv,
    ConvStep,
    FoldedBlock,
    FoldedNetwork,
    FusedBlock,
    FusedNetwork,
    FusedPixelSkip,
    Join,
    Linear,
    NormStep,
    Padding,
    Pool,
    PoolStep,
    Step,
)
from training.export.fold import SAFE_SCALE, FoldError, fold_batch_norm, fold_network

CLASSES = 5
# Zero, one, negative ones, out of any range, and subnormal in float32 and float64.
FREAKS = [0.0, -0.0, 1.0, -1.0, 2.0, -0.5, 1e-30, -1e-30, 1e30, -1e30, 1e-42, 5e-324]
SCALES = st.one_of(st.sampled_from(FREAKS), st.floats(-4, 4), st.floats(-1e6, 1e6))
TAME = st.floats(0.5, 2.0)

BLOCKS = [
    "identity",
    "bottleneck",
    "grouped",
    "single",
    "padding",
    "wider_padding",
    "projection",
    "grouped_projection",
    "pre",
    "pre_single",
    "pre_projection",
]
OTHERS = ["conv", "conv_pool", "linear_conv", "max_pool", "norm"]


class Drawer:
    """Random steps that fit onto each other, with scales from a strategy."""

    def __init__(self, seed: int, scales: list[float], channelwise: list[bool]) -> None:
        self.rng = np.random.default_rng(seed)
        self.scales, self.channelwise = scales, channelwise
        self.channels, self.blocks = 4, 0
        self.signed = False

    def conv(self, out: int, size: int, stride: int = 1, groups: int = 1, into: int = 0) -> Conv:
        into = into or self.channels
        weight = self.rng.normal(0, 0.4, (out, into // groups, size, size))
        pads = (size // 2, size // 2) if self.rng.random() < 0.7 else (0, size - 1)
        return Conv(weight, self.rng.normal(0, 0.2, out), stride, pads, groups)

    def affine(self) -> Affine:
        factor, shift = self.rng.normal(0, 1, (2, self.channels))
        return Affine(factor, shift)

    def scale(self, channels: int) -> Array:
        """The next scale, or one a channel from there on."""
        at = self.blocks
        self.blocks += 1
        if not self.channelwise[at % len(self.channelwise)]:
            return np.full(channels, self.scales[at % len(self.scales)])
        return np.array([self.scales[(at + c) % len(self.scales)] for c in range(channels)])

    def step(self, kind: str, name: str) -> Step:
        if kind in BLOCKS:
            return self.block(kind, name)
        if kind == "norm":
            self.signed = False
            return NormStep(name, self.affine())
        if kind == "max_pool" and not self.signed:
            return PoolStep(name, Pool(3, 2, (1, 1)))
        pool = Pool(2, 1, (0, 1)) if kind == "conv_pool" else None
        self.signed = kind == "linear_conv"
        return ConvStep(name, self.conv(self.channels, 3), pool, relu=kind != "linear_conv")

    def block(self, kind: str, name: str) -> FusedBlock:
        into, pre = self.channels, self.affine() if kind.startswith("pre") else None
        out, stride, shortcut = self._shortcut(kind)
        if kind in ("single", "pre_single"):
            branch: tuple[Conv, ...] = (self.conv(out, 3, stride),)
        elif kind == "bottleneck":
            branch = (self.conv(2, 1), self.conv(2, 3, stride, into=2), self.conv(out, 1, into=2))
        elif kind.startswith("grouped"):
            grouped = self.conv(6, 3, stride, groups=2, into=6)
            branch = (self.conv(6, 1), grouped, self.conv(out, 1, into=6))
        else:
            branch = (self.conv(6, 3, stride, groups=2), self.conv(out, 3, into=6))
        w, v = self.scale(out), self.scale(out)
        self.channels, self.signed = out, pre is not None
        assert into == branch[0].channels_in
        return FusedBlock(name, pre, branch, shortcut, w, v)

    def _shortcut(self, kind: str) -> tuple[int, int, Conv | Padding | None]:
        if kind.endswith("projection"):
            projection = replace(self.conv(self.channels, 1, 2), pads=(0, 0))
            return self.channels, 2, projection
        if kind == "padding":
            return self.channels, 2, Padding(2, 0, 0)
        if kind == "wider_padding":
            return self.channels + 4, 1, Padding(1, 1, 3)
        return self.channels, 1, None


@st.composite
def networks(draw: st.DrawFn, scales: st.SearchStrategy[float] = SCALES) -> FusedNetwork:
    """Up to six steps of any kind, and in one of four networks a pixel skip."""
    kinds = draw(st.lists(st.sampled_from(BLOCKS + BLOCKS + OTHERS), min_size=1, max_size=6))
    drawn = draw(st.lists(scales, min_size=1, max_size=8))
    channelwise = draw(st.lists(st.booleans(), min_size=1, max_size=4))
    seed = draw(st.integers(0, 10_000))
    return make(kinds, drawn, channelwise, seed, pixel_skip=draw(st.integers(0, 3)) == 0)


def make(
    kinds: list[str],
    scales: list[float],
    channelwise: list[bool] | None = None,
    seed: int = 0,
    *,
    pixel_skip: bool = False,
) -> FusedNetwork:
    drawer = Drawer(seed, scales, channelwise or [False])
    rng = drawer.rng
    steps: list[Step] = [ConvStep("stem", drawer.conv(4, 3, into=3))]
    steps += [drawer.step(kind, f"step{index}") for index, kind in enumerate(kinds)]
    features, skip = drawer.channels, None
    if pixel_skip:
        pixels = 3 * 8 * 8
        dense = Linear(rng.normal(0, 0.4, (pixels, features)), rng.normal(0, 0.2, pixels))
        skip = FusedPixelSkip(dense, (3, 8, 8), drawer.scale(3), drawer.scale(3))
        features = pixels
    classifier = Linear(rng.normal(0, 1, (CLASSES, features)), rng.normal(0, 1, CLASSES))
    normalization = Conv(rng.normal(0, 0.4, (3, 3, 1, 1)), rng.normal(0, 0.2, 3))
    return FusedNetwork(normalization, tuple(steps), classifier, skip)


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.manual_seed(seed))


def largest_scale(network: FusedNetwork) -> float:
    joins = [step for step in network.steps if isinstance(step, FusedBlock)]
    scales = [s for join in joins for s in (join.shortcut_scale, join.branch_scale)]
    if (skip := network.pixel_skip) is not None:
        scales += [skip.shortcut_scale, skip.branch_scale]
    return max((float(np.abs(scale).max()) for scale in scales), default=0.0)


@given(networks())
@example(make(["max_pool", "identity", "padding", "identity"], [-1.0, 0.0, 1.0], [True]))
@example(make(["linear_conv", "pre", "pre", "pre_projection", "pre", "norm"], [-0.5, 2.0]))
@example(make(["identity"] * 4, [1e-30, 1e30]))
@example(make(["identity", "conv"], [3.0, 1.0], pixel_skip=True))
@settings(max_examples=300, deadline=None)
def test_folding_keeps_the_logits(network):
    x = images()
    expected = reference.run(network, x)
    # Huge scales overflow float32 in the trained network just as in the folded one.
    if not expected.isfinite().all():
        return
    try:
        folded = fold_network(network)
    except FoldError:
        assert largest_scale(network) > 1e20
        return
    error = float((reference.run(folded, x) - expected).abs().max())
    assert error <= 1e-9 * float(expected.abs().max())


@given(networks(TAME), st.sampled_from([1.0, -1.0]))
@settings(max_examples=100, deadline=None)
def test_ordinary_scales_of_one_sign_leave_no_mul(network, sign):
    def signed(step: Step) -> Step:
        if not isinstance(step, FusedBlock):
            return step
        return replace(step, shortcut_scale=sign * step.shortcut_scale)

    folded = fold_network(replace(network, steps=tuple(map(signed, network.steps))))
    assert folded.kept_muls == ()
    # From the first block on, until a convolution or a norm hands on what is not scaled.
    inherited = 1.0
    for step in folded.steps:
        if not isinstance(step, FoldedBlock):
            inherited = inherited if isinstance(step, PoolStep) else 1.0
            continue
        if isinstance(step.shortcut, Conv):
            assert step.join is Join.ADD
            inherited = 1.0
        elif step.pre is not None:
            assert step.join is Join.ADD  # no ReLU behind it: the sign folds too
            inherited *= sign
        else:
            padded_across = isinstance(step.shortcut, Padding) and step.shortcut.before
            if not padded_across or inherited > 0:
                assert step.join is (Join.ADD if sign * inherited > 0 else Join.SUB)
            inherited = 1.0


def expected_muls(network: FusedNetwork) -> tuple[str, ...]:
    """Which joins keep a Mul, by the rule in words: see docs/folding.md.

    A shortcut without parameters keeps its factors where what it brings, all the scales since the
    last projection together, leaves the safe range in one channel but is not zero in all; and its
    signs where a ReLU follows and they differ between channels.
    """
    names, carried = [], np.ones(3)
    for step in network.steps:
        if isinstance(step, ConvStep):
            carried = np.ones(step.conv.channels_out)
        elif isinstance(step, NormStep):
            carried = np.ones_like(carried)
        elif isinstance(step, FusedBlock):
            w = step.shortcut_scale
            if isinstance(step.shortcut, Padding):
                ends = (step.shortcut.before, step.shortcut.behind)
                sign = -1.0 if (carried < 0).all() else 1.0
                carried = np.pad(carried, ends, constant_values=sign)
            product, signs = w * carried, set(np.sign(w * carried))
            safe = all(2.0**-16 <= abs(p) <= 2.0**16 for p in product)
            if isinstance(step.shortcut, Conv) or not w.any():
                carried = np.ones_like(w)
            elif not safe:
                names.append(step.name)
                carried = np.ones_like(w)
            elif step.pre is not None:
                carried = product
            else:
                carried = np.abs(product)
                if len(signs) == 2:
                    names.append(step.name)
    return tuple(names)


@given(networks())
@settings(max_examples=200, deadline=None)
def test_a_mul_is_kept_only_where_the_documents_say(network):
    plain = replace(network, pixel_skip=None)
    classifier = Linear(np.ones((CLASSES, len(last_scale(network)))), np.ones(CLASSES))
    try:
        folded = fold_network(replace(plain, classifier=classifier))
    except FoldError:
        assert largest_scale(network) > 1e20
        return
    assert folded.kept_muls == expected_muls(network)


def last_scale(network: FusedNetwork) -> Array:
    channels = 4
    for step in network.steps:
        channels = len(step.shortcut_scale) if isinstance(step, FusedBlock) else channels
    return np.ones(channels)


@pytest.mark.parametrize(
    ("w", "v", "join", "muls"),
    [
        ([0.5] * 3, [2.0] * 3, Join.ADD, ()),
        ([0.5] * 3, [-2.0] * 3, Join.SUB, ()),
        ([-0.5] * 3, [2.0] * 3, Join.SUB, ()),
        ([-0.5] * 3, [-2.0] * 3, Join.ADD, ()),
        ([0.0] * 3, [-2.0] * 3, Join.NONE, ()),
        ([0.5] * 3, [0.0] * 3, Join.ADD, ()),
        ([-0.5, 0.5, 0.5], [1.0, -1.0, -1.0], Join.SUB, ()),
        ([0.5] * 3, [1.0, -1.0, 1.0], Join.ADD, ("pixel_skip",)),
        ([0.5, 0.0, 0.5], [1.0] * 3, Join.ADD, ("pixel_skip",)),
        ([1e-30] * 3, [1.0] * 3, Join.ADD, ("pixel_skip",)),
    ],
)
def test_the_pixel_skip(w, v, join, muls):
    network = make(["identity"], [2.0], pixel_skip=True)
    assert network.pixel_skip is not None
    skip = replace(network.pixel_skip, shortcut_scale=np.array(w), branch_scale=np.array(v))
    network = replace(network, pixel_skip=skip)
    folded = fold_network(network)
    assert folded.pixel_skip is not None
    assert (folded.pixel_skip.join, folded.kept_muls) == (join, muls)
    expected = reference.run(network, images())
    assert torch.allclose(reference.run(folded, images()), expected, rtol=1e-12)


def test_zero_scales_drop_the_shortcut_and_remember_it():
    folded = fold_network(make(["identity", "projection", "padding", "pre"], [0.0]))
    assert [block.join for block in folded.blocks] == [Join.NONE] * 4
    assert [block.shortcut for block in folded.blocks] == [None] * 4
    kinds = [type(block.dropped) for block in folded.blocks]
    assert kinds == [type(None), Conv, Padding, type(None)]


def test_a_scale_out_of_range_keeps_its_mul_and_the_next_block_begins_anew():
    # Of each pair the first scale is w, the second v.
    network = make(["identity"] * 3, [1e-9, 1.0, -1e9, 1.0, 0.5, 1.0])
    folded = fold_network(network)
    assert folded.kept_muls == ("step0", "step1")
    assert [float(block.output_scale[0]) for block in folded.blocks] == [1.0, 1.0, 0.5]


def test_products_of_harmless_scales_leave_the_range_too():
    folded = fold_network(make(["identity"] * 17, [2.0, 1.0]))
    assert folded.kept_muls == ("step16",)
    assert float(folded.blocks[15].output_scale[0]) == SAFE_SCALE.high


def names_of(network: FoldedNetwork) -> list[str]:
    return [step.name for step in network.steps]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_scale_that_is_no_number_is_refused(wrong, kind):
    network = make(["identity", kind], [1.0])
    stem, first, block = network.steps
    assert isinstance(block, FusedBlock)
    for name in ("shortcut_scale", "branch_scale"):
        broken = getattr(block, name).copy()
        broken[-1] = wrong
        steps = (stem, first, replace(block, **{name: broken}))
        with pytest.raises(FoldError, match=rf"step1 is {wrong}"):
            fold_network(replace(network, steps=steps))


def test_a_pixel_skips_scale_that_is_no_number_is_refused():
    network = make([], [1.0], pixel_skip=True)
    assert network.pixel_skip is not None
    nan = np.array([1.0, np.nan, 1.0])
    for broken in (
        replace(network.pixel_skip, shortcut_scale=nan),
        replace(network.pixel_skip, branch_scale=nan),
    ):
        with pytest.raises(FoldError, match="pixel_skip"):
            fold_network(replace(network, pixel_skip=broken))


def bad(values: Array, wrong: float) -> Array:
    broken = values.copy()
    broken.flat[-1] = wrong
    return broken


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e39])
def test_a_weight_that_float32_can_not_hold_is_refused_by_name(wrong):
    network = make(["pre_projection", "projection", "norm"], [1.0], pixel_skip=True)
    stem, pre, post, norm = network.steps
    assert isinstance(stem, ConvStep)
    assert isinstance(pre, FusedBlock)
    assert isinstance(post, FusedBlock)
    assert isinstance(norm, NormStep)
    assert pre.pre is not None
    assert isinstance(post.shortcut, Conv)
    skip = network.pixel_skip
    assert skip is not None

    def conv(layer: Conv) -> Conv:
        return replace(layer, bias=bad(layer.bias, wrong))

    def linear(layer: Linear) -> Linear:
        return replace(layer, weight=bad(layer.weight, wrong))

    def affine(norm: Affine) -> Affine:
        return replace(norm, shift=bad(norm.shift, wrong))

    broken: dict[str, FusedNetwork] = {
        "normalization": replace(network, normalization=conv(network.normalization)),
        "classifier": replace(network, classifier=linear(network.classifier)),
        "pixel_skip.dense": replace(network, pixel_skip=replace(skip, dense=linear(skip.dense))),
    }
    steps: dict[str, tuple[Step, ...]] = {
        "stem": (replace(stem, conv=conv(stem.conv)), pre, post, norm),
        "step0.pre": (stem, replace(pre, pre=affine(pre.pre)), post, norm),
        "step1.shortcut": (stem, pre, replace(post, shortcut=conv(post.shortcut)), norm),
        "step1.branch1": (
            stem,
            pre,
            replace(post, branch=(post.branch[0], conv(post.branch[1]))),
            norm,
        ),
        "step2": (stem, pre, post, replace(norm, norm=affine(norm.norm))),
    }
    broken |= {name: replace(network, steps=each) for name, each in steps.items()}
    for name, each in broken.items():
        with pytest.raises(FoldError, match=f"^{name} holds"):
            fold_network(each)


def test_a_kept_factor_that_float32_can_not_hold_is_refused():
    # 4 is folded and carried on; 2e38 is a float32, and 4 times as much is none.
    network = make(["identity", "identity"], [4.0, 1.0, 2e38, 1.0])
    with pytest.raises(FoldError, match=r"^step1.shortcut holds"):
        fold_network(network)


@given(st.integers(0, 1000), st.sampled_from([1, 2]))
@settings(max_examples=30, deadline=None)
def test_batch_norm_folds_into_the_convolution_before_it(seed, groups):
    drawer = Drawer(seed, [1.0], [False])
    layer = drawer.conv(6, 3, groups=groups)
    gamma, beta, mean = drawer.rng.normal(0, 1, (3, 6))
    variance = drawer.rng.uniform(1e-3, 4, 6)
    x = torch.from_numpy(drawer.rng.normal(0, 1, (2, 4, 6, 6)))
    expected = F.batch_norm(
        reference.conv(layer, x),
        torch.from_numpy(mean),
        torch.from_numpy(variance),
        torch.from_numpy(gamma),
        torch.from_numpy(beta),
        eps=0.0,
    )
    folded = fold_batch_norm(layer, gamma, beta, mean, variance)
    assert torch.allclose(reference.conv(folded, x), expected, atol=1e-10)


def test_grouped_convolutions_read_scales_of_their_own_group():
    drawer = Drawer(0, [1.0], [False])
    layer = drawer.conv(6, 3, groups=2)
    scale = np.array([0.5, 2.0, -3.0, 7.0])
    x = torch.from_numpy(drawer.rng.normal(0, 1, (2, 4, 6, 6)))
    read = reference.conv(layer.reading(scale), reference.scaled(x, 1 / scale))
    assert torch.allclose(read, reference.conv(layer, x), atol=1e-12)


def test_the_plain_twin_has_every_scale_at_one():
    network = make(["identity", "pre", "projection"], [-0.5, 0.0], [True], pixel_skip=True)
    twin = network.plain_twin()
    assert names_of(fold_network(twin)) == names_of(fold_network(network))
    for step in twin.steps:
        if isinstance(step, FusedBlock):
            assert (step.shortcut_scale == 1).all()
            assert (step.branch_scale == 1).all()
    folded = fold_network(twin)
    assert folded.kept_muls == ()
    assert {block.join for block in folded.blocks} == {Join.ADD}
    assert folded.pixel_skip is not None
    assert folded.pixel_skip.join is Join.ADD

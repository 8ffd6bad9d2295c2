"""Skip shares, and the gauge that makes them the right thing to report."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from training.networks.blocks import ConvBlock
from training.networks.layers import ConvUnit
from training.networks.network import NetworkOptions, ResidualNetwork
from training.networks.registry import build_network
from training.networks.scale_options import ScaleOptions
from training.report.skip_share import measure_shares


def network_with(granularity: str, **scales: object) -> ResidualNetwork:
    """A network in float64 with eps 0 and statistics and affine parameters that are not trivial."""
    options = ScaleOptions(granularity=granularity, **scales)  # type: ignore[arg-type]
    network = build_network(
        "resnet20", NetworkOptions(channels=3, classes=5, scales=options)
    ).double()
    assert isinstance(network, ResidualNetwork)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network


def in_mode(network: ResidualNetwork, *, training: bool) -> ResidualNetwork:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # PyTorch refuses 0 in training; beside a variance, this is 0 in float64.
            module.eps = 1e-30 if training else 0.0
            module.momentum = 1.0
    return network.train(training)


def settle(network: ResidualNetwork, x: Tensor) -> None:
    """Give every batch norm the statistics of x, and stay in evaluation mode."""
    with torch.no_grad():
        in_mode(network, training=True)(x)
    in_mode(network, training=False)


def set_scales(network: ResidualNetwork, values: list[float]) -> None:
    for (_, block), value in zip(network.named_blocks(), values, strict=True):
        assert block.shortcut_scale is not None
        with torch.no_grad():
            block.shortcut_scale.raw.fill_(value)


def conv_blocks(network: ResidualNetwork) -> list[ConvBlock]:
    return [block for _, block in network.named_blocks() if isinstance(block, ConvBlock)]


def first_scale(block: ConvBlock) -> float:
    assert block.shortcut_scale is not None
    return block.shortcut_scale.values()[0]


def norm_of(unit: nn.Module | None) -> nn.BatchNorm2d:
    assert isinstance(unit, ConvUnit)
    assert isinstance(unit.norm, nn.BatchNorm2d)
    return unit.norm


def gauge_twin(network: ResidualNetwork) -> ResidualNetwork:
    """The plain network (w = 1) that computes the same: SCIENCE.md 4.2.

    The activation x is carried as x / c. An identity block sets c to w c, a projection block back
    to 1, having taken w into the affine parameters of its shortcut.
    """
    twin = network_with("fixed")
    twin.load_state_dict(network.state_dict() | fixed(twin))
    carried = 1.0
    with torch.no_grad():
        for block, plain in zip(conv_blocks(network), conv_blocks(twin), strict=True):
            w = first_scale(block)
            readers = [norm_of(plain.units()[0])]
            if block.shortcut_kind == "projection":
                shortcut = norm_of(plain.shortcut)
                shortcut.weight.mul_(w)
                shortcut.bias.mul_(w)
                readers.append(shortcut)
                after = 1.0
            else:
                after = w * carried
            for norm in readers:  # running statistics of what now comes in divided by c
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean /= carried
                norm.running_var /= carried**2
            last = norm_of(plain.units()[-1])
            last.weight.div_(after)
            last.bias.div_(after)
            carried = after
        twin.classifier.weight *= carried
    return twin


def fixed(twin: ResidualNetwork) -> dict[str, Tensor]:
    return {n: t for n, t in twin.state_dict().items() if n.endswith("scale.raw")}


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture
def scaled() -> tuple[ResidualNetwork, Tensor, list[float]]:
    torch.manual_seed(3)
    network = network_with("block")
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    # Positive on identity shortcuts; a projection's sign is a symmetry, so any will do.
    values = [
        (0.4 + 1.2 * torch.rand(()).item()) * (-1 if block.shortcut_kind == "projection" else 1)
        for _, block in network.named_blocks()
    ]
    set_scales(network, values)
    settle(network, x)
    return network, x, values


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_a_positive_identity_scale_is_only_a_gauge(scaled, training):
    network, x, _ = scaled
    twin = gauge_twin(network)
    assert {first_scale(block) for block in conv_blocks(twin)} == {1.0}
    expected = in_mode(network, training=training)(x)
    assert difference(in_mode(twin, training=training)(x), expected) < 1e-12


@torch.no_grad()
def test_the_sign_of_an_identity_scale_is_no_gauge(scaled):
    network, x, values = scaled
    before = in_mode(network, training=True)(x)
    kinds = [block.shortcut_kind for _, block in network.named_blocks()]
    flipped = kinds.index("identity", 1)
    set_scales(network, [-v if i == flipped else v for i, v in enumerate(values)])
    after = network(x)
    assert difference(after, before) > 0.01
    assert difference(in_mode(gauge_twin(network), training=True)(x), after) > 0.01


@torch.no_grad()
def test_the_sign_of_a_projection_is_a_gauge(scaled):
    network, x, values = scaled
    before = network(x)
    index, block = next(
        (i, b) for i, b in enumerate(conv_blocks(network)) if b.shortcut_kind == "projection"
    )
    set_scales(network, [-v if i == index else v for i, v in enumerate(values)])
    norm_of(block.shortcut).weight.neg_()
    norm_of(block.shortcut).bias.neg_()
    assert torch.equal(network(x), before)


@torch.no_grad()
def test_what_is_reported_does_not_depend_on_the_gauge(scaled):
    network, x, _ = scaled
    twin = in_mode(gauge_twin(network), training=False)
    ours, twins = measure_shares(network, [x]), measure_shares(twin, [x])
    assert len(ours) == 9
    for own, other in zip(ours, twins, strict=True):
        assert own.kind == other.kind
        assert own.skip_share == pytest.approx(other.skip_share, rel=1e-9)
        assert own.gauge_fixed == pytest.approx(other.gauge_fixed, rel=1e-9)
        assert len(own.gauge_fixed) == (own.kind == "identity")


@torch.no_grad()
def test_the_formulas_on_one_block(scaled):
    network, x, values = scaled
    share, *_ = measure_shares(network, [x[:3], x[3:]])  # however it is batched
    block = conv_blocks(network)[0]
    inside = network.body["stem"](x)
    branch, skip = block.terms(inside)
    assert branch is not None

    def rms(t: Tensor) -> float:
        return math.sqrt(t.square().mean().item())

    assert share.block == "stage1_block1"
    assert share.skip_share == pytest.approx(rms(skip) / (rms(skip) + rms(branch)))
    gain = rms(block(inside)) / rms(inside)
    assert share.gauge_fixed == [pytest.approx(values[0] / gain)]


@torch.no_grad()
def test_signs_channels_and_dead_blocks(scaled):
    network, x, values = scaled
    set_scales(network, [-0.5, 0.0, *values[2:]])
    first, second, *_ = measure_shares(network, [x])
    assert first.gauge_fixed[0] < 0
    assert second.skip_share == 0
    assert second.gauge_fixed == [0.0]
    for unit in conv_blocks(network)[1].units():
        norm_of(unit).weight.zero_()
        norm_of(unit).bias.zero_()
    second = measure_shares(network, [x])[1]
    assert second.skip_share is None
    assert second.gauge_fixed == []
    channels = network_with("channel", init="normal", std=1.0)
    settle(channels, x)
    found = measure_shares(channels, [x])[0]
    scale = conv_blocks(channels)[0].shortcut_scale
    assert scale is not None
    signs = [math.copysign(1, v) for v in scale.values()]
    assert [math.copysign(1, v) for v in found.gauge_fixed] == signs


def test_measuring_leaves_the_network_as_it_was(scaled):
    network, x, _ = scaled
    network.train()
    measure_shares(network, [x])
    assert network.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-4", "first-upload"])
@pytest.mark.parametrize("placement", ["shortcut", "branch"])
def test_every_kind_of_network_can_be_measured(name, placement):
    options = NetworkOptions(
        channels=1, classes=3, image_px=32, width=0.25, scales=ScaleOptions(placement=placement)
    )
    network = build_network(name, options)
    shares = measure_shares(network, [torch.rand(2, 1, 32, 32)])
    assert [s.block for s in shares] == [n for n, _ in network.named_blocks()]
    assert all(s.skip_share is not None and 0 < s.skip_share < 1 for s in shares)

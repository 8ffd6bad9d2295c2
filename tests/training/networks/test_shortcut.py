from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.training.networks.samples import options
from training.networks.network import scale_values
from training.networks.registry import build_network
from training.networks.scale_options import Bound, Granularity, ScaleOptions
from training.networks.shortcut import Scale

FIRST = {("zero", None): 0.0, ("one", None): 1.0, ("constant", 0.3): 0.3, ("constant", -2.0): -2.0}
REACH = {"none": (-math.inf, math.inf), "softplus": (0.0, math.inf), "tanh": (-1.0, 1.0)}


@pytest.mark.parametrize("granularity", ["fixed", "block", "channel"])
@pytest.mark.parametrize("bound", REACH)
@pytest.mark.parametrize(("init", "value"), FIRST)
def test_first_values_are_those_of_the_scale_not_of_the_parameter(granularity, bound, init, value):
    first = FIRST[init, value]

    def make() -> Scale:
        return Scale(ScaleOptions(granularity, "shortcut", init, value, bound=bound), 5)

    low, high = REACH[bound]
    if not low < first < high:
        with pytest.raises(ValueError, match="--scale-init"):
            make()
        return
    scale = make()
    assert scale.values() == pytest.approx([first] * (5 if granularity == "channel" else 1))
    x = torch.randn(2, 5, 3, 3)
    assert torch.allclose(scale(x), first * x, atol=1e-6)
    assert len(list(scale.parameters())) == (granularity != "fixed")
    assert len(list(scale.buffers())) == (granularity == "fixed")


def test_normal_first_values():
    torch.manual_seed(0)
    drawn = Scale(ScaleOptions("channel", init="normal", value=0.5, std=0.2), 20_000)
    values = torch.tensor(drawn.values())
    assert float(values.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(values.std()) == pytest.approx(0.2, abs=0.005)
    around_zero = Scale(ScaleOptions("channel", init="normal"), 20_000)  # the published script's
    assert torch.tensor(around_zero.values()).mean() == pytest.approx(0.0, abs=0.002)


def test_first_values_that_can_not_be():
    with pytest.raises(ValueError, match="--scale-value"):
        ScaleOptions(init="constant")
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            ScaleOptions(init="constant", value=value)


@pytest.mark.parametrize("parameter", [-30.0, -1.0, 0.0, 1.0, 30.0])
def test_bounds_hold_wherever_the_parameter_goes(parameter):
    bounds: tuple[Bound, ...] = ("softplus", "tanh")
    for bound in bounds:
        low, high = REACH[bound]
        scale = Scale(ScaleOptions(init="constant", value=0.5, bound=bound), 1)
        with torch.no_grad():
            scale.raw.fill_(parameter)
        (value,) = scale.values()
        assert low <= value <= high
        expected = math.log1p(math.exp(parameter)) if bound == "softplus" else math.tanh(parameter)
        assert value == pytest.approx(expected, rel=1e-6)


def test_large_first_values_under_softplus():
    scale = Scale(ScaleOptions(init="constant", value=1000.0, bound="softplus"), 1)
    assert scale.values() == pytest.approx([1000.0])


def test_the_gradient_is_that_of_a_product():
    scale = Scale(ScaleOptions("channel", init="constant", value=0.3, bound="tanh"), 4)
    x = torch.randn(2, 4, 3, 3)
    scale(x).sum().backward()
    assert scale.raw.grad is not None
    expected = x.sum(dim=(0, 2, 3)) * (1 - 0.3**2)
    assert torch.allclose(scale.raw.grad.flatten(), expected, atol=1e-5)


def test_half_precision_stays_half():
    scale = Scale(ScaleOptions("channel"), 4)
    assert scale(torch.randn(2, 4, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


# resnet14: three stages of two blocks; the first blocks of stages 2 and 3 have projections.
GROUPS = {
    "fixed": 6,
    "unified": 1,
    "block_type": 2,
    "stage": 3,
    "block": 6,
    "channel": 6,
}


@pytest.mark.parametrize(
    ("granularity", "placement"), list(itertools.product(GROUPS, ["shortcut", "branch", "both"]))
)
def test_who_shares_a_scale(granularity, placement):
    network = build_network(
        "resnet14", options(ScaleOptions(granularity, placement, "normal"), width=0.25)
    )
    scales = [m for m in network.modules() if isinstance(m, Scale)]
    terms = 2 if placement == "both" else 1
    assert len(scales) == GROUPS[granularity] * terms  # modules() names each once
    for name, block in network.named_blocks():
        assert (block.shortcut_scale is None) is (placement == "branch"), name
        assert (block.branch_scale is None) is (placement == "shortcut"), name
        assert block.shortcut_scale is not block.branch_scale
    values = scale_values(network.named_blocks())
    assert len(values) == 6 * terms
    distinct = {tuple(v) for v in values.values()}
    assert len(distinct) == GROUPS[granularity] * terms
    sizes = [len(v) for k, v in values.items() if k.endswith((".shortcut", ".branch"))]
    channels = [4, 4, 8, 8, 16, 16]
    expected = channels if granularity == "channel" else [1] * 6
    assert sizes == [size for size in expected for _ in range(terms)]
    learned = sum(p.numel() for m in scales for p in m.parameters())
    assert learned == (0 if granularity == "fixed" else sum(map(len, distinct)))


def test_kinds_and_stages_share_as_they_are_named():
    def scale_ids(granularity: Granularity) -> list[int]:
        blocks = build_network("resnet14", options(ScaleOptions(granularity))).named_blocks()
        return [id(block.shortcut_scale) for _, block in blocks]

    a, b, c, d, e, f = scale_ids("block_type")
    assert a == b == d == f
    assert c == e != a
    a, b, c, d, e, f = scale_ids("stage")
    assert a == b
    assert c == d
    assert e == f
    assert len({a, c, e}) == 3


def test_parameter_free_shortcuts_are_of_one_type():
    network = build_network("resnet14", options(ScaleOptions("block_type"), padding=True))
    assert len({id(block.shortcut_scale) for _, block in network.named_blocks()}) == 1

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.networks.samples import options
from training.config import TrainConfig
from training.networks.registry import build_network
from training.networks.scale_options import ScaleOptions
from training.optim import build_optimizer, learning_rate, set_rates

STEPS = 40


def config(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "data": "x",
        "out": Path("unused"),
        "schedule": "constant",
        "warmup": 0.0,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


class Quadratic(nn.Module):
    """One weight matrix, so that a gradient can be whatever a test wants."""

    def __init__(self, start: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(start.copy()))


def gradients(count: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Of very different sizes: where they are tiny, the place of epsilon decides."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(4, 5)) * 10.0 ** rng.uniform(-9, 0, (4, 5)) for _ in range(count)]


def test_keras_adam_is_keras_s():
    start = np.random.default_rng(1).normal(size=(4, 5))
    network = Quadratic(start)
    run = config(optimizer="keras_adam")
    optimizer = build_optimizer(network, run)
    # keras.src.optimizers.adam.Adam.update_step, with its defaults.
    variable, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step, gradient in enumerate(gradients(STEPS)):
        set_rates(optimizer, step, STEPS, run)
        network.weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        beta_1_power, beta_2_power = 0.9 ** (step + 1), 0.999 ** (step + 1)
        alpha = 1e-3 * np.sqrt(1 - beta_2_power) / (1 - beta_1_power)
        m += (gradient - m) * (1 - 0.9)
        v += (gradient**2 - v) * (1 - 0.999)
        variable -= (m * alpha) / (np.sqrt(v) + 1e-7)
        assert np.allclose(network.weight.detach().numpy(), variable, rtol=1e-12, atol=0)
    assert np.abs(variable - start).max() > 1e-3


def test_pytorchs_adam_with_the_same_epsilon_is_another_one():
    start = np.zeros((4, 5))
    ours, theirs = Quadratic(start), Quadratic(start)
    run = config(optimizer="keras_adam")
    optimizer = build_optimizer(ours, run)
    plain = torch.optim.Adam(theirs.parameters(), lr=1e-3, eps=1e-7)
    (gradient,) = gradients(1)
    for network, each in ((ours, optimizer), (theirs, plain)):
        set_rates(optimizer, 0, STEPS, run)
        network.weight.grad = torch.from_numpy(gradient)
        each.step()
    difference = (ours.weight - theirs.weight).detach().abs().max()
    assert float(difference) > 1e-5


def test_adamw_and_sgd_are_pytorchs():
    start = np.random.default_rng(1).normal(size=(4, 5))
    for name, make in (
        (
            "sgd",
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
        ),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01)),
    ):
        ours, theirs = Quadratic(start), Quadratic(start)
        run = config(optimizer=name, learning_rate=0.1, momentum=0.8, weight_decay=0.01)
        optimizer, reference = build_optimizer(ours, run), make(theirs.parameters())
        for step, gradient in enumerate(gradients(5)):
            set_rates(optimizer, step, 5, run)
            ours.weight.grad = torch.from_numpy(gradient)
            theirs.weight.grad = torch.from_numpy(gradient)
            optimizer.step()
            reference.step()
        assert torch.equal(ours.weight, theirs.weight), name


def test_no_momentum_is_plain_gradient_descent():
    network = Quadratic(np.ones((2, 2)))
    optimizer = build_optimizer(network, config(optimizer="sgd", momentum=0.0, learning_rate=0.5))
    network.weight.grad = torch.ones(2, 2, dtype=torch.float64)
    optimizer.step()
    assert torch.equal(network.weight, torch.full((2, 2), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "fast8", "paper8", "first-upload"])
@pytest.mark.parametrize("granularity", ["fixed", "unified", "channel"])
def test_groups(name, granularity):
    network = build_network(name, options(ScaleOptions(granularity, "both")))
    run = config(weight_decay=0.1, scale_weight_decay=0.2, scale_learning_rate=5e-4)
    groups = build_optimizer(network, run).param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for p in network.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)  # each once, and what is frozen in none
    names = {id(p): n for n, p in network.named_parameters()}
    decayed, free, *scales = groups
    assert (decayed["weight_decay"], decayed["share"]) == (0.1, 1.0)
    assert (free["weight_decay"], free["share"]) == (0.0, 1.0)
    for parameter in decayed["params"]:
        layer = names[id(parameter)].rsplit(".", 2)[-2]
        assert layer in ("conv", "classifier", "dense")
        assert names[id(parameter)].endswith("weight")
    assert not any(names[id(p)].endswith("conv.weight") for p in free["params"])
    if granularity == "fixed":
        assert scales == []
        return
    (group,) = scales
    assert (group["weight_decay"], group["share"]) == (0.2, 0.5)
    assert all(names[id(p)].endswith("scale.raw") for p in group["params"])
    # One value a channel has three dimensions, and is no convolution's weight for that.
    assert not any(names[id(p)].endswith("raw") for p in decayed["params"])


def test_scales_have_a_learning_rate_of_their_own():
    network = build_network("resnet8", options(ScaleOptions("block")))
    for scale_rate, expected in ((None, 0.1), (0.02, 0.02), (0.0, 0.0)):
        run = config(learning_rate=0.1, scale_learning_rate=scale_rate)
        optimizer = build_optimizer(network, run)
        assert set_rates(optimizer, 3, 10, run) == 0.1
        weights, _, scales = optimizer.param_groups
        assert (weights["lr"], scales["lr"]) == (0.1, pytest.approx(expected))


def rates(**changes: object) -> list[float]:
    run = config(**{"learning_rate": 1.0, **changes})
    return [learning_rate(step, 20, run) for step in range(20)]


class TestSchedules:
    def test_one_cycle(self):
        found = rates(schedule="one_cycle", warmup=0.2)
        assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
        assert found[4:] == pytest.approx([(20 - step) / 16 for step in range(4, 20)])

    def test_cosine(self):
        found = rates(schedule="cosine", warmup=0.2)
        assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
        expected = [0.5 * (1 + math.cos(math.pi * (s - 4) / 16)) for s in range(4, 20)]
        assert found[4:] == pytest.approx(expected)

    def test_constant(self):
        assert rates(schedule="constant") == [1.0] * 20
        assert rates(schedule="constant", warmup=0.1)[:3] == pytest.approx([0.5, 1.0, 1.0])

    @pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
    @pytest.mark.parametrize("warmup", [0.0, 0.01, 0.5, 0.99])
    def test_every_step_learns_and_none_exceeds_the_peak(self, schedule, warmup):
        found = rates(schedule=schedule, warmup=warmup)
        assert all(0 < rate <= 1 for rate in found)
        assert max(found) == pytest.approx(1.0, rel=0.06)
        peak = found.index(max(found))
        assert found[: peak + 1] == sorted(found[: peak + 1])
        assert found[peak:] == sorted(found[peak:], reverse=True)

    def test_a_run_of_one_step(self):
        for schedule in ("one_cycle", "cosine", "constant"):
            run = config(schedule=schedule, learning_rate=1.0, warmup=0.15)
            assert learning_rate(0, 1, run) == 1.0

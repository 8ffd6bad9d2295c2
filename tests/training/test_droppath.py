from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn, optim

from tests.training.networks.samples import options
from training.config import TrainConfig
from training.data.augment import Normalize
from training.droppath import Droppath
from training.networks.blocks import ResidualBlock
from training.networks.registry import AdaptiveNetwork, build_network
from training.networks.scale_options import ScaleOptions
from training.optim import build_optimizer
from training.processes import Processes
from training.step import Trainer, train_step

STEPS = 100


def config(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "data": "x",
        "out": Path("unused"),
        "droppath": "residual",
        "drop_schedule": "uniform",
        "drop_rate": 0.5,
        "learning_rate": 0.05,
        "weight_decay": 0.01,
        "scale_weight_decay": 0.01,
        "schedule": "constant",
        "warmup": 0.0,
        "batch_size": 8,
        "device": "cpu",
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


def network(name: str = "resnet20") -> AdaptiveNetwork:
    torch.manual_seed(0)
    return build_network(name, options(ScaleOptions("block", "both"), width=0.25))


def trainer_of(config: TrainConfig, name: str = "resnet20") -> Trainer:
    made = network(name)
    made.train()
    return Trainer(
        config=config,
        network=made,
        model=made,
        normalize=Normalize([0.5] * 3, [0.25] * 3),
        optimizer=build_optimizer(made, config),
        droppath=Droppath(made, config),
        averaged=None,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        processes=Processes(0, 1, torch.device("cpu")),
    )


def step(trainer: Trainer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    views = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (8,), generator=generator)
    train_step(trainer, views, labels, number, STEPS, generator)


def first_kind(droppath: Droppath, *, some: bool = True) -> int:
    """The first even step that drops some blocks but not all; or, not ``some``, none."""
    blocks = len(droppath.rates)
    for number in itertools.count(0, 2):
        dropped = len(droppath.dropped(number))
        if (0 < dropped < blocks) if some else dropped == 0:
            return number
    raise AssertionError


def names_in(network: nn.Module, modules: Iterator[nn.Module]) -> set[str]:
    ids = {id(p) for module in modules for p in module.parameters()}
    return {name for name, p in network.named_parameters() if id(p) in ids}


def branches(network: AdaptiveNetwork, blocks: list[int]) -> set[str]:
    """Names of the parameters of some blocks' branches."""
    found = [block for _, block in network.named_blocks()]
    return names_in(network, (m for i in blocks for m in found[i].branch_modules()))


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    """Parameters, and every tensor of the optimizer's state of each."""
    found = {}
    for name, parameter in trainer.network.named_parameters():
        found[f"weight:{name}"] = parameter.detach().clone()
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"{key}:{name}"] = value.clone()
    return found


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of parameters of which anything has changed, bit by bit."""
    changed = {
        key
        for key, value in after.items()
        if key not in before or not torch.equal(before[key], value)
    }
    return {key.partition(":")[2] for key in changed}


OPTIMIZERS = ["sgd", "adamw", "keras_adam"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["resnet20", "wrn-16-4", "paper8"])
class TestSecondIteration:
    def test_what_is_frozen_stays_bit_by_bit(self, optimizer, name):
        trainer = trainer_of(config(optimizer=optimizer), name)
        a = first_kind(trainer.droppath)
        ordinary = replace(trainer, droppath=Droppath(trainer.network, config(droppath="none")))
        step(ordinary, a)  # so that every parameter has momentum that could move it
        step(trainer, a)
        before = snapshot(trainer)
        statistics = {n: b.clone() for n, b in trainer.network.named_buffers()}
        assert any(key.startswith(("momentum_buffer", "exp_avg")) for key in before)
        step(trainer, a + 1)
        expected = branches(trainer.network, trainer.droppath.dropped(a))
        assert expected
        assert moved(before, snapshot(trainer)) == expected
        after = dict(trainer.network.named_buffers())
        # Batch norm's statistics are no parameters: the whole network ran, and they follow it.
        running = [n for n in statistics if n.endswith("running_mean")]
        assert all(not torch.equal(statistics[n], after[n]) for n in running)

    def test_frozen_statistics_stay_too(self, optimizer, name):
        trainer = trainer_of(config(optimizer=optimizer, residual_norm="frozen"), name)
        a = first_kind(trainer.droppath)
        step(trainer, a)
        before = snapshot(trainer)
        statistics = {n: b.clone() for n, b in trainer.network.named_buffers()}
        step(trainer, a + 1)
        dropped = trainer.droppath.dropped(a)
        assert moved(before, snapshot(trainer)) == branches(trainer.network, dropped)
        blocks = [block for _, block in trainer.network.named_blocks()]
        free = {
            id(m) for i in dropped for part in blocks[i].branch_modules() for m in part.modules()
        }
        norms = {n: m for n, m in trainer.network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert any(id(m) in free for m in norms.values())
        for norm_name, norm in norms.items():
            still = torch.equal(
                statistics[f"{norm_name}.running_var"], norm.get_buffer("running_var")
            )
            assert still is (id(norm) not in free), norm_name
            assert norm.training


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_if_nothing_was_dropped_the_second_iteration_is_an_ordinary_one(optimizer):
    trainer = trainer_of(config(optimizer=optimizer, drop_rate=0.2))
    a = first_kind(trainer.droppath, some=False)
    ordinary = trainer_of(config(optimizer=optimizer, droppath="none"))
    step(trainer, a + 1)
    step(ordinary, a + 1)
    ours, theirs = snapshot(trainer), snapshot(ordinary)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_first_iteration_trains_all_but_the_dropped():
    trainer = trainer_of(config())
    a = first_kind(trainer.droppath)
    before = snapshot(trainer)
    step(trainer, a)
    dropped = trainer.droppath.dropped(a)
    still = {n for n, _ in trainer.network.named_parameters()} - moved(before, snapshot(trainer))
    blocks = trainer.network.named_blocks()
    scales = {f"body.{blocks[i][0]}.branch_scale.raw" for i in dropped}
    assert still == branches(trainer.network, dropped) | scales


def test_the_control_that_trains_everything_is_an_ordinary_step():
    trainer = trainer_of(config(residual_trains="all"))
    a = first_kind(trainer.droppath)
    before = snapshot(trainer)
    step(trainer, a + 1)
    assert moved(before, snapshot(trainer)) == {n for n, _ in trainer.network.named_parameters()}


def test_the_random_control_trains_as_many_branches_but_others():
    trainer = trainer_of(config(residual_trains="random"))
    others = 0
    for a in range(0, 40, 2):
        dropped = trainer.droppath.dropped(a)
        if not 0 < len(dropped) < 9:
            continue
        before = snapshot(trainer)
        step(trainer, a + 1)
        changed = moved(before, snapshot(trainer))
        trained = [i for i in range(9) if branches(trainer.network, [i]) <= changed]
        assert changed == branches(trainer.network, trained)
        assert len(trained) == len(dropped)
        others += trained != dropped
    assert others > 10


def test_the_classifier_can_be_left_free():
    trainer = trainer_of(config(residual_head=True))
    a = first_kind(trainer.droppath)
    before = snapshot(trainer)
    step(trainer, a + 1)
    head = {"classifier.weight", "classifier.bias"}
    expected = branches(trainer.network, trainer.droppath.dropped(a)) | head
    assert moved(before, snapshot(trainer)) == expected


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_step_leaves_the_network_as_it_was(accumulate):
    trainer = trainer_of(config(accumulate=accumulate, residual_norm="frozen"), "fast8")
    never = {n for n, p in trainer.network.named_parameters() if not p.requires_grad}
    assert never  # the whitened stem
    for number in range(4):
        step(trainer, number)
        assert all(block.keep is True for _, block in trainer.network.named_blocks())
        still = {n for n, p in trainer.network.named_parameters() if not p.requires_grad}
        assert still == never
        assert all(module.training for module in trainer.network.modules())


def test_a_step_that_fails_leaves_the_network_as_it_was():
    droppath = Droppath(made := network(), config())
    a = first_kind(droppath)
    for number in (a, a + 1):
        with pytest.raises(RuntimeError, match="on purpose"), droppath.iteration(number, 8):
            raise RuntimeError("on purpose")
        assert all(p.requires_grad for p in made.parameters())
        assert all(block.keep is True for _, block in made.named_blocks())


class TestMasks:
    def test_rates(self):
        assert Droppath(network(), config(droppath="none")).rates == [0.0] * 9
        assert Droppath(network(), config()).rates == [0.5] * 9
        rates = Droppath(network(), config(drop_schedule="linear")).rates
        assert rates == pytest.approx([0.5 * (i + 1) / 9 for i in range(9)])

    @pytest.mark.parametrize("schedule", ["linear", "uniform"])
    def test_blocks_are_dropped_as_often_as_their_rates_say(self, schedule):
        droppath = Droppath(network(), config(drop_schedule=schedule))
        counts = torch.zeros(9)
        steps = 4000
        for number in range(steps):
            for index in droppath.dropped(number):
                counts[index] += 1
        # Four standard deviations of a share over so many draws.
        assert torch.allclose(
            counts / steps, torch.tensor(droppath.rates), atol=4 * 0.5 / 4000**0.5
        )

    def test_blocks_are_drawn_independently(self):
        droppath = Droppath(network(), config())
        rows = torch.zeros(2000, 9)
        for number in range(2000):
            rows[number, droppath.dropped(number)] = 1
        correlation = torch.corrcoef(rows.T) - torch.eye(9)
        assert float(correlation.abs().max()) < 4.5 / 2000**0.5
        following = torch.corrcoef(torch.stack([rows[:-1, 0], rows[1:, 0]]))[0, 1]
        assert abs(float(following)) < 4.5 / 2000**0.5

    def test_seed_and_step_alone_decide(self):
        # So every process of a distributed run drops the same, and so does a resumed one.
        torch.manual_seed(1)
        first = Droppath(network(), config())
        torch.manual_seed(2)
        second = Droppath(network("resnet20"), config())
        assert [first.dropped(n) for n in range(50)] == [second.dropped(n) for n in range(50)]
        other = Droppath(network(), config(seed=1))
        assert [first.dropped(n) for n in range(50)] != [other.dropped(n) for n in range(50)]

    def test_which_steps_are_second_ones(self):
        def seconds(**changes: object) -> list[int]:
            droppath = Droppath(network(), config(**changes))
            return [n for n in range(12) if droppath.is_second(n)]

        assert seconds() == [1, 3, 5, 7, 9, 11]
        assert seconds(residual_ratio=3) == [3, 7, 11]
        assert seconds(droppath="stochastic_depth") == []
        assert seconds(droppath="none") == []

    def test_the_second_iteration_trains_what_the_last_first_one_dropped(self):
        trainer = trainer_of(config(residual_ratio=2))
        number = next(n for n in range(2, 100, 3) if 0 < len(trainer.droppath.dropped(n - 1)) < 9)
        before = snapshot(trainer)
        step(trainer, number)
        expected = branches(trainer.network, trainer.droppath.dropped(number - 1))
        assert moved(before, snapshot(trainer)) == expected


class Halves(nn.Module):
    """Stands for a network whose only block's branch is worth 1 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.block = OneBlock()
        self.classifier = nn.Linear(1, 1)

    def named_blocks(self) -> list[tuple[str, ResidualBlock]]:
        return [("block", self.block)]


class OneBlock(ResidualBlock):
    def __init__(self) -> None:
        super().__init__("identity", (None, None))

    def forward(self, x: Tensor) -> Tensor:
        if self.keep is False:
            return torch.zeros_like(x)
        return self._scaled_branch(torch.ones_like(x))


class TestStochasticDepth:
    @pytest.mark.parametrize("per", ["batch", "sample"])
    @pytest.mark.parametrize("rescale", [None, False])
    def test_the_expectation_is_that_of_the_whole_network(self, per, rescale):
        halves = Halves()
        droppath = Droppath(
            halves,  # type: ignore[arg-type]
            config(droppath="stochastic_depth", drop_per=per, drop_rate=0.3, drop_rescale=rescale),
        )
        outputs = []
        for number in range(3000 if per == "batch" else 300):
            with droppath.iteration(number, 10):
                outputs.append(halves.block(torch.zeros(10, 1, 1, 1)).flatten())
        rows = torch.stack(outputs)
        expected = 1.0 if rescale is None else 0.7
        assert float(rows.mean()) == pytest.approx(expected, abs=4 * 0.46 / 0.7 / 3000**0.5)
        kept = 1 / 0.7 if rescale is None else 1.0
        assert {round(v, 5) for v in rows.flatten().tolist()} == {0.0, round(kept, 5)}
        mixed = [0 < int((row > 0).sum()) < 10 for row in rows]
        assert any(mixed) is (per == "sample")

    @pytest.mark.parametrize("per", ["batch", "sample"])
    def test_it_trains(self, per):
        trainer = trainer_of(config(droppath="stochastic_depth", drop_per=per, drop_rate=0.3))
        before = snapshot(trainer)
        for number in range(4):
            step(trainer, number)
        names = {n for n, _ in trainer.network.named_parameters()}
        assert moved(before, snapshot(trainer)) == names

    def test_a_rate_of_zero_changes_nothing(self):
        for changes in ({"drop_per": "batch"}, {"drop_per": "sample"}):
            dropping = trainer_of(config(droppath="stochastic_depth", drop_rate=0.0, **changes))
            plain = trainer_of(config(droppath="none"))
            step(dropping, 0)
            step(plain, 0)
            ours, theirs = snapshot(dropping), snapshot(plain)
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

    def test_residual_droppath_does_not_rescale_by_default(self):
        assert not config().rescales
        assert config(droppath="stochastic_depth").rescales
        assert config(drop_rescale=True).rescales


def test_zero_gradients_would_have_moved_what_is_frozen():
    """Why frozen parameters have no gradient at all rather than a zero one."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.1)
    parameter.grad = torch.ones(3)
    optimizer.step()
    after_one = parameter.detach().clone()
    parameter.grad = torch.zeros(3)
    optimizer.step()
    assert not torch.equal(after_one, parameter)
    after_two = parameter.detach().clone()
    parameter.grad = None
    optimizer.step()
    assert torch.equal(after_two, parameter)

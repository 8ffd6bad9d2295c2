from __future__ import annotations

import itertools
import json
import shutil

import pytest
import torch

from tests.conftest import tiny_config
from training import optim
from training.checkpoint import FILE_NAME, CheckpointError, load_checkpoint
from training.errors import Stopped, TrainingError
from training.loop import _batches, fit
from training.optim import build_optimizer, learning_rate
from training.start import network_of


def quiet(line: str) -> None:
    pass


def test_the_network_learns_and_every_scale_moves(trained_run):
    state, _ = load_checkpoint(trained_run)
    assert state.epochs_done == 4
    assert state.history[-1].test_accuracy > 0.8
    scales = state.history[-1].scales
    assert len(scales) == 3
    assert state.scales_at_start == {name: [1.0] for name in scales}
    assert all(values != [1.0] for values in scales.values())


EVERYTHING = {
    "cutout_px": 3,
    "mixup": 0.2,
    "cutmix": 1.0,
    "crop_scale": 0.5,
    "flip": "alternating",
    "ema": 0.9,
    "clip_norm": 1.0,
    "accumulate": 2,
    "granularity": "channel",
    "placement": "both",
    "droppath": "residual",
    "drop_rate": 0.5,
}


@pytest.fixture(
    scope="module",
    params=[{}, EVERYTHING, {"optimizer": "adamw", "droppath": "stochastic_depth"}],
    ids=["default", "everything", "adamw"],
)
def unbroken(request: pytest.FixtureRequest, image_folder, tmp_path_factory):
    """Changes to the configuration, and the folder of a run with them."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    fit(tiny_config(image_folder, out, epochs=3, **request.param), quiet)
    return request.param, out


@pytest.mark.parametrize("after", [1, 5, 6, 7, 11])  # 6 steps an epoch
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(image_folder, tmp_path, after, unbroken):
    changes, run = unbroken
    broken = tiny_config(image_folder, tmp_path / "broken", epochs=3, **changes)
    asked = itertools.count(1)
    with pytest.raises(Stopped, match="stopped in epoch"):
        fit(broken, quiet, lambda: next(asked) == after)
    stopped, _ = load_checkpoint(tmp_path / "broken")
    assert stopped.partial is not None
    assert stopped.epochs_done * 6 + stopped.partial.steps == after
    fit(broken.model_copy(update={"resume": True}), quiet)
    whole, tensors = load_checkpoint(run)
    resumed, others = load_checkpoint(tmp_path / "broken")
    assert tensors.keys() == others.keys()
    assert any(name.startswith("optimizer.") for name in tensors)
    assert any(name.startswith("averaged.") for name in tensors) is ("ema" in changes)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert [r.train_loss for r in whole.history] == [r.train_loss for r in resumed.history]
    rows = [json.loads(r) for r in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2, 3]


def test_seeds_decide(image_folder, tmp_path):
    def weights(seed: int, name: str) -> torch.Tensor:
        config = tiny_config(image_folder, tmp_path / name, epochs=1, seed=seed)
        fit(config, quiet)
        return load_checkpoint(tmp_path / name)[1]["network.classifier.weight"]

    first = weights(1, "a")
    assert torch.equal(first, weights(1, "b"))
    assert not torch.equal(first, weights(2, "c"))


def test_fixed_scales_stay(image_folder, tmp_path):
    config = tiny_config(image_folder, tmp_path / "r", epochs=1, preset="fixed-2")
    assert all(values == [2.0] for values in fit(config, quiet).history[-1].scales.values())


def test_bfloat16(image_folder, tmp_path):
    state = fit(tiny_config(image_folder, tmp_path / "r", precision="bfloat16", epochs=4), quiet)
    assert state.history[-1].test_accuracy > 0.5


def test_weight_decay_never_touches_scales_biases_or_norms(image_folder, tmp_path):
    config = tiny_config(image_folder, tmp_path)
    state = fit(config, quiet)
    network = network_of(state)
    decayed, free, scales = build_optimizer(network, config).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert decayed["weight_decay"] > 0
    assert free["weight_decay"] == 0
    assert all(
        names[id(p)].endswith(("conv.weight", "classifier.weight")) for p in decayed["params"]
    )
    assert all(names[id(p)].endswith((".bias", "norm.weight")) for p in free["params"])
    assert len(scales["params"]) == 3
    assert (scales["weight_decay"], scales["share"]) == (0.0, 1.0)
    own = config.model_copy(update={"scale_learning_rate": 0.01, "scale_weight_decay": 0.5})
    scales = build_optimizer(network, own).param_groups[2]
    assert (scales["weight_decay"], scales["share"]) == (0.5, pytest.approx(0.2))


def test_a_diverging_run_stops_and_keeps_the_last_checkpoint(image_folder, tmp_path, monkeypatch):
    config = tiny_config(image_folder, tmp_path / "r", epochs=2)

    def exploding(step, steps, config):
        return 1e30 if step > 5 else learning_rate(step, steps, config)

    monkeypatch.setattr(optim, "learning_rate", exploding)
    with pytest.raises(TrainingError, match=r"learning-rate.*is kept"):
        fit(config, quiet)
    state, tensors = load_checkpoint(tmp_path / "r")
    assert state.epochs_done == 1
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_run_that_diverges_at_once_saves_nothing(image_folder, tmp_path):
    config = tiny_config(image_folder, tmp_path / "r", learning_rate=1e30)
    wanted = r"the loss is (nan|inf) in epoch 1: lower --learning-rate, or try --clip-norm\.$"
    with pytest.raises(TrainingError, match=wanted):
        fit(config, quiet)
    assert not (tmp_path / "r" / FILE_NAME).exists()


def test_a_run_is_never_overwritten_and_resumes_only_as_it_was(image_folder, tmp_path):
    config = tiny_config(image_folder, tmp_path / "r", epochs=1)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        fit(config.model_copy(update={"resume": True}), quiet)
    fit(config, quiet)
    assert load_checkpoint(config.out)[0].epochs_done == 1
    with pytest.raises(TrainingError, match="--resume"):
        fit(config, quiet)
    with pytest.raises(TrainingError, match="other settings"):
        fit(config.model_copy(update={"resume": True, "momentum": 0.5}), quiet)


def test_other_data_is_not_resumed(image_folder, tmp_path):
    config = tiny_config(image_folder, tmp_path / "r", epochs=1)
    fit(config, quiet)
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    next((other / "train" / "red").iterdir()).unlink()
    with pytest.raises(TrainingError, match="other data"):
        fit(config.model_copy(update={"resume": True, "data": str(other)}), quiet)


def test_starting_from_another_run(image_folder, trained_run, tmp_path):
    changes = {"start_from": trained_run, "learning_rate": 1e-9, "epochs": 1}
    state = fit(tiny_config(image_folder, tmp_path / "r", **changes), quiet)
    before, _ = load_checkpoint(trained_run)
    assert state.history[0].test_accuracy >= before.history[-1].test_accuracy - 0.1
    assert state.started_from is not None
    assert before.config.stable_hash() in state.started_from
    with pytest.raises(TrainingError, match="another network"):
        fit(tiny_config(image_folder, tmp_path / "s", width=2, **changes), quiet)


def test_a_folder_that_can_not_be_written_is_found_out_first(image_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="can't be written"):
        fit(tiny_config(image_folder, tmp_path / "file" / "r"), quiet)


def test_unknown_networks_and_missing_devices(image_folder, tmp_path):
    with pytest.raises(TrainingError, match="resnet20"):
        fit(tiny_config(image_folder, tmp_path / "r", network="resnet21"), quiet)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="--device cpu"):
            fit(tiny_config(image_folder, tmp_path / "r", device="cuda"), quiet)


@pytest.mark.parametrize("last_batch", ["drop", "keep"])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("images", [1, 7, 8, 9, 15, 16])
def test_the_configuration_counts_the_steps_that_are_taken(images, processes, last_batch, tmp_path):
    config = tiny_config(tmp_path, tmp_path, batch_size=8, last_batch=last_batch)
    taken = len(_batches(0, config, images, processes))
    assert config.steps_per_epoch(images, processes) == taken

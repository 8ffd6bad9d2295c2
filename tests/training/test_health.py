from __future__ import annotations

import json
import math

import pytest
import torch

from tests.conftest import tiny_config
from training import optim
from training.checkpoint import load_checkpoint
from training.errors import Stopped, TrainingError
from training.health import check_finite
from training.loop import fit
from training.optim import learning_rate
from training.processes import Processes


def quiet(line: str) -> None:
    pass


def exploding_at(first: int):
    def rate(step, steps, config):
        return math.inf if step >= first else learning_rate(step, steps, config)

    return rate


def test_only_numbers_go_on(tmp_path):
    config = tiny_config(tmp_path, tmp_path)
    check_finite(torch.tensor([1.0, 0.0, 1.0]), 0, config)
    for loss in (float("nan"), float("inf")):
        with pytest.raises(
            TrainingError, match=r"the loss is (nan|inf) in epoch 3: lower"
        ) as error:
            check_finite(torch.tensor([loss, 0.0, 1.0]), 2, config)
        assert "is kept" not in str(error.value)


# 6 steps an epoch. The loss is computed in front of a step, and says nothing of its outcome.
@pytest.mark.parametrize("first", [11, 8])
def test_weights_that_the_last_step_destroyed_are_not_saved(
    image_folder, tmp_path, monkeypatch, first
):
    monkeypatch.setattr(optim, "learning_rate", exploding_at(first))
    config = tiny_config(image_folder, tmp_path / "r", epochs=2)
    with pytest.raises(TrainingError, match=r"epoch 2.*The last save is kept in") as error:
        fit(config, quiet)
    assert ("the weights are not finite" in str(error.value)) is (first == 11)
    state, tensors = load_checkpoint(tmp_path / "r")
    assert state.epochs_done == 1
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    rows = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["kind"] for row in rows].count("epoch") == 1


def test_nor_are_they_when_the_run_is_asked_to_stop(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(optim, "learning_rate", exploding_at(0))
    config = tiny_config(image_folder, tmp_path / "r")
    with pytest.raises(TrainingError, match="not finite"):
        fit(config, quiet, lambda: True)
    assert not (tmp_path / "r" / "checkpoint.safetensors").exists()


def test_processes_that_came_apart_do_not_save(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "same", lambda self, values: False)
    with pytest.raises(TrainingError, match="the processes' weights differ in epoch 1"):
        fit(tiny_config(image_folder, tmp_path / "r"), quiet)
    assert not (tmp_path / "r" / "checkpoint.safetensors").exists()


def test_a_healthy_run_stops_and_saves(image_folder, tmp_path):
    with pytest.raises(Stopped):
        fit(tiny_config(image_folder, tmp_path / "r"), quiet, lambda: True)
    assert load_checkpoint(tmp_path / "r")[0].partial is not None

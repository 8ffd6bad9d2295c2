from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from tests.conftest import ROOT, tiny_config
from training import start
from training.checkpoint import EpochRecord, RunState, load_checkpoint
from training.commands.train import _split_recipe
from training.config import load_config
from training.errors import Stopped
from training.journal import METRICS_FILE, RECIPE_FILE, RUN_FILE, Journal, as_recipe
from training.loop import fit

NUMBERS = {"loss": 1.5, "accuracy": 0.25, "learning_rate": 0.1, "images_per_s": 1000.0}
SCALES = {"stage1_block1.shortcut": [1.0, 3.0], "stage1_block1.branch": [0.5]}


def quiet(line: str) -> None:
    pass


def make_state(out: Path, **changes: object) -> RunState:
    values: dict[str, object] = {
        "config": tiny_config(Path("data"), out),
        "data_name": "colors",
        "data_digest": "0123456789abcdef",
        "test_name": "test",
        "class_names": ("a", "b"),
        "grey": False,
        "image_px": 16,
        "train_images": 192,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "device": "cpu",
        "processes": 1,
        "versions": {"torch": "2"},
        "started_from": None,
    }
    return RunState.model_validate({**values, **changes})


def make_record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        train_loss=1.0,
        train_accuracy=0.5,
        test_accuracy=0.75,
        duration_s=2.0,
        learning_rate=0.1,
        scales=SCALES,
    )


def rows_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(row) for row in (out / METRICS_FILE).read_text().splitlines()]


def curves_of(out: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(out))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_rows_and_curves(out):
    journal = Journal(make_state(out), resumed_at=0, tensorboard=True)
    journal.step(20, **NUMBERS, scales=SCALES)
    journal.epoch(30, make_record(1))
    journal.close()
    step, epoch = rows_of(out)
    assert step == {"kind": "step", "step": 20, **NUMBERS, "scales": SCALES}
    assert epoch == {"kind": "epoch", "step": 30, **make_record(1).model_dump()}
    curves = curves_of(out)
    assert curves["step/loss"] == [(20, 1.5)]
    assert curves["step/images_per_s"] == [(20, 1000.0)]
    assert curves["epoch/test_accuracy"] == [(30, 0.75)]
    # Of one scale a channel, their mean.
    assert curves["scale/stage1_block1.shortcut"] == [(20, 2.0), (30, 2.0)]
    assert curves["scale/stage1_block1.branch"] == [(20, 0.5), (30, 0.5)]


def test_without_tensorboard_no_events_are_written(out):
    journal = Journal(make_state(out), resumed_at=0, tensorboard=False)
    journal.step(20, **NUMBERS, scales=SCALES)
    journal.close()
    assert {path.name for path in out.iterdir()} == {METRICS_FILE, RUN_FILE, RECIPE_FILE}


@pytest.mark.parametrize("resumed_at", [0, 20, 30])
def test_what_lies_behind_the_resumed_step_is_gone(out, resumed_at):
    journal = Journal(make_state(out), resumed_at=0, tensorboard=True)
    for step in (10, 20, 30, 40):
        journal.step(step, **NUMBERS, scales=SCALES)
    journal.close()
    again = Journal(make_state(out), resumed_at=resumed_at, tensorboard=True)
    again.step(50, **NUMBERS, scales={})
    again.close()
    kept = [step for step in (10, 20, 30, 40) if step <= resumed_at]
    assert [row["step"] for row in rows_of(out)] == [*kept, 50]
    curves = curves_of(out)
    assert [step for step, _ in curves["step/loss"]] == [*kept, 50]
    assert [step for step, _ in curves.get("scale/stage1_block1.branch", [])] == kept


@pytest.mark.parametrize("missing", [1, 2, 30])
def test_a_torn_last_line_is_left_out(out, missing):
    journal = Journal(make_state(out), resumed_at=0, tensorboard=False)
    journal.step(10, **NUMBERS, scales=SCALES)
    journal.step(20, **NUMBERS, scales={})  # ends with two braces
    path = out / METRICS_FILE
    path.write_text(path.read_text()[: -1 - missing])
    again = Journal(make_state(out), resumed_at=20, tensorboard=False)
    again.step(30, **NUMBERS, scales={})
    assert [row["step"] for row in rows_of(out)] == [10, 30]


def test_a_log_that_is_gone_is_begun_again(out):
    Journal(make_state(out), resumed_at=20, tensorboard=False).epoch(30, make_record(1))
    assert [row["step"] for row in rows_of(out)] == [30]


def test_a_run_logs_every_scale_often_and_says_what_it_was(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.LOG_STEPS", 2)
    changes = {"tensorboard": True, "placement": "both", "seed": 3}
    config = tiny_config(image_folder, tmp_path / "run", **changes)
    state = fit(config, quiet)
    rows = rows_of(config.out)
    assert [row["step"] for row in rows if row["kind"] == "step"] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in rows if row["kind"] == "epoch"] == [6, 12]
    assert all(row.keys() >= {"loss", *NUMBERS, "scales"} for row in rows if row["kind"] == "step")
    assert all(row["scales"].keys() == state.scales_at_start.keys() for row in rows)  # type: ignore[attr-defined]
    curves = curves_of(config.out)
    for name in state.scales_at_start:
        assert [step for step, _ in curves[f"scale/{name}"]] == [2, 4, 6, 6, 8, 10, 12, 12]
    assert len(state.scales_at_start) == 6
    written = json.loads((config.out / RUN_FILE).read_text())
    assert written["config"]["seed"] == 3
    assert written["data_digest"] == state.data_digest
    assert re.fullmatch("[0-9a-f]{16}", written["data_digest"])
    assert written["versions"]["torch"] == torch.__version__
    if (ROOT / ".git").exists():
        assert re.match("[0-9a-f]{40}", written["versions"]["git"])


def test_outside_of_a_checkout_no_commit_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "__file__", str(tmp_path / "start.py"))
    assert start._commit() == {}


def test_the_first_row_after_resuming_is_of_the_steps_since(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.LOG_STEPS", 2)
    config = tiny_config(image_folder, tmp_path / "run", epochs=1)
    fit(config.model_copy(update={"out": tmp_path / "whole"}), quiet)
    asked = itertools.count(1)
    with pytest.raises(Stopped):
        fit(config, quiet, lambda: next(asked) == 4)
    fit(config.model_copy(update={"resume": True}), quiet)
    resumed, whole = ([dict(r) for r in rows_of(tmp_path / name)] for name in ("run", "whole"))
    for row in (*resumed, *whole):
        row.pop("images_per_s", None)
        row.pop("duration_s", None)
    assert resumed == whole


def test_the_recipe_repeats_the_run(image_folder, tmp_path):
    changes = {
        "preset": "adaresnet-normal",
        "scale_learning_rate": 0.01,
        "mixup": 0.2,
        "flip": "alternating",
        "drop_rescale": False,
        "clip_norm": 2.0,
        "epochs": 1,
    }
    config = tiny_config(image_folder, tmp_path / "first", **changes)
    fit(config, quiet)
    recipe = tmp_path / "first" / RECIPE_FILE
    again = ["--recipe", recipe, "--data", image_folder, "--out", tmp_path / "second"]
    found, rest = _split_recipe([*map(str, again), "--device", "cpu", "--no-tensorboard"])
    fit(load_config(rest, found, program="a test"), quiet)
    first, tensors = load_checkpoint(tmp_path / "first")
    second, others = load_checkpoint(tmp_path / "second")
    assert first.config.stable_hash() == second.config.stable_hash()
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert (tmp_path / "second" / RECIPE_FILE).read_text() == recipe.read_text()


def test_a_recipe_says_what_it_can_not_repeat(out):
    text = as_recipe(make_state(out, processes=2, started_from="abc, 3 epochs"))
    assert "# data: colors, digest 0123456789abcdef" in text
    assert "# started from: abc, 3 epochs" in text
    assert "# in 2 processes" in text
    assert "tensorboard" not in text

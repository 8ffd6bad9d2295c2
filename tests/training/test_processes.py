"""Two real processes on the CPU, started as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ADARESNET, ROOT
from tests.training.in_two_processes import EPOCHS, EVERYTHING, GRADIENTS, STEPS
from training.checkpoint import load_checkpoint
from training.errors import TrainingError
from training.processes import Agreement, Processes, join_processes, place

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [
    str(ADARESNET.parent / "accelerate"),
    *("launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    str(ADARESNET),
]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TIMEOUT_S = 120


def train_flags(data: Path, out: Path, **changes: object) -> list[str]:
    values = {
        "data": data,
        "out": out,
        "network": "resnet8",
        "batch-size": 32,
        "learning-rate": 0.05,
        "shift-px": 1,
        "device": "cpu",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    flags = [f"--{name}={value}" for name, value in values.items() if value is not True]
    switches = [f"--{name}" for name, value in values.items() if value is True]
    return ["train", *flags, *switches, "--no-tensorboard"]


def launch(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
        cwd=ROOT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a launch to end by itself; one that hangs is ended, with all its processes."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        pytest.fail(f"the processes hang:\n{output}\n{errors}")
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def seen(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes saw of themselves, as files."""
    out = tmp_path_factory.mktemp("two")
    driver = ["-m", "tests.training.in_two_processes", str(image_folder), str(out)]
    status, _, errors = finish(launch([*TORCHRUN, *driver]))
    assert status == 0, errors
    return out


def told(seen: Path, index: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((seen / f"told-{index}.json").read_text())
    return found


def assert_equal(one: Path, other: Path) -> None:
    first, second = torch.load(one), torch.load(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_after_a_run_both_processes_hold_the_same_weights(seen):
    assert_equal(seen / "own-0.pt", seen / "own-1.pt")
    _, tensors = load_checkpoint(seen / "run0")
    for name, tensor in torch.load(seen / "own-0.pt").items():
        assert torch.equal(tensor, tensors[f"network.{name}"]), name
    assert any(name.startswith("averaged.") for name in tensors)


def test_only_the_main_process_writes(seen):
    assert {path.name for path in (seen / "run0").iterdir()} == {
        "checkpoint.safetensors",
        "metrics.jsonl",
        "recipe.toml",
        "run.json",
    }
    assert list((seen / "run1").iterdir()) == []


def test_metrics_count_every_image(seen):
    first, second = (json.loads((seen / f"history-{i}.json").read_text()) for i in (0, 1))
    for ours, theirs in zip(first["history"], second["history"], strict=True):
        for name in ("train_loss", "train_accuracy", "scales"):
            assert ours[name] == theirs[name], name
        images = ours["train_accuracy"] * 192
        assert images == pytest.approx(round(images))  # 6 batches of 32, of both processes
    rows = [json.loads(r) for r in (seen / "run0" / "metrics.jsonl").read_text().splitlines()]
    for step, epoch in zip(rows[::2], rows[1::2], strict=True):
        assert (step["kind"], epoch["kind"]) == ("step", "epoch")
        assert step["loss"] == pytest.approx(epoch["train_loss"])
        assert step["accuracy"] == pytest.approx(epoch["train_accuracy"])


@pytest.mark.parametrize("name", GRADIENTS)
def test_two_processes_take_the_steps_of_one(seen, name):
    assert_equal(seen / f"{name}-all-0.pt", seen / f"{name}-all-1.pt")
    both, one = (torch.load(seen / f"{name}-{kind}-0.pt") for kind in ("all", "one"))
    for key, tensor in one.items():
        torch.testing.assert_close(both[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
    sums = told(seen, 0)["sums"]
    assert sums[f"{name}-all"] == told(seen, 1)["sums"][f"{name}-all"]
    assert sums[f"{name}-all"] == pytest.approx(sums[f"{name}-one"], rel=1e-4)
    assert sums[f"{name}-all"][2] == STEPS * 32


def test_only_the_last_part_of_a_batch_synchronises(seen):
    assert told(seen, 0)["synchronisations"] == STEPS
    assert told(seen, 1)["synchronisations"] == STEPS


def test_processes_agree(seen):
    first, second = told(seen, 0), told(seen, 1)
    assert first["stopping"] == second["stopping"]
    assert 30 <= first["stopping"][0] <= 80
    assert first["same"] is second["same"] is True
    assert first["different"] is second["different"] is False
    assert first["on_machine"] == 2


def test_interrupted_two_processes_save_and_resume_bit_for_bit(seen, image_folder, tmp_path):
    flags = train_flags(image_folder, tmp_path / "broken", epochs=EPOCHS, **EVERYTHING)
    broken = launch([*ACCELERATE, *flags])
    assert broken.stderr is not None
    for line in broken.stderr:
        if line.startswith("epoch 2/"):
            break
    os.killpg(broken.pid, signal.SIGINT)  # as a terminal does: launcher and processes at once
    asked = time.monotonic()
    status, _, errors = finish(broken)
    assert time.monotonic() - asked < 25  # a launcher that waits in vain takes 30 s
    assert status != 0
    assert errors.count("stopped in epoch") == 1
    assert errors.count("--resume") == 1
    stopped, _ = load_checkpoint(tmp_path / "broken")
    assert 2 <= stopped.epochs_done < EPOCHS
    status, output, errors = finish(launch([*TORCHRUN, str(ADARESNET), *flags, "--resume"]))
    assert status == 0, errors
    assert output.count("test accuracy") == 1
    assert errors.count("2 processes") == 1
    unbroken, tensors = load_checkpoint(seen / "run0")
    resumed, others = load_checkpoint(tmp_path / "broken")
    assert unbroken.processes == resumed.processes == 2
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    for ours, theirs in zip(unbroken.history, resumed.history, strict=True):
        assert ours.model_copy(update={"duration_s": 0}) == theirs.model_copy(
            update={"duration_s": 0}
        )


def test_one_process_that_fails_ends_the_other(image_folder, tmp_path):
    # Each process trains on the folder of its rank, and there is none for the second.
    (tmp_path / "data0").symlink_to(image_folder)
    script = tmp_path / "start.sh"
    flags = train_flags(Path(f"{tmp_path}/data$RANK"), tmp_path / "run", epochs=100)
    script.write_text(f"exec {ADARESNET} {' '.join(flags)}\n")
    started = time.monotonic()
    status, _, errors = finish(launch([*TORCHRUN, "--no-python", "bash", str(script)]))
    assert status != 0
    assert time.monotonic() - started < 60
    assert "adaresnet train (process 1): " in errors
    assert "data1" in errors
    assert "epoch 100/" not in errors


def test_a_launcher_that_starts_one_process_of_two_is_found_out(image_folder, tmp_path):
    command = [str(ADARESNET.parent / "accelerate"), "launch", "--cpu", "--num_processes", "2"]
    flags = train_flags(image_folder, tmp_path / "run")
    status, _, errors = finish(launch([*command, str(ADARESNET), *flags]))
    assert status != 0
    assert "--multi_gpu" in errors
    assert not (tmp_path / "run").exists()


def test_one_process_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    processes = join_processes(torch.device("cpu"))
    assert processes == Processes(0, 1, torch.device("cpu"))
    assert processes.is_main
    network = torch.nn.Linear(2, 2)
    assert processes.wrap(network, some_unused=True) is network
    with processes.unsynchronised(network):
        pass
    values = torch.ones(2).double()
    assert processes.total(values) is values
    assert processes.same(values)
    agreement = Agreement(processes)
    assert [agreement.stops(wish) for wish in (False, True, False)] == [False, True, False]
    processes.wait()
    processes.leave()
    assert place({"RANK": "3", "WORLD_SIZE": "8"}) == (3, 8)
    assert place({}) == (0, 1)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.raises(TrainingError, match="--multi_gpu"):
        join_processes(torch.device("cpu"))

"""``adaresnet train`` as a user runs it: real processes, signals, a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.conftest import ADARESNET
from training.checkpoint import FILE_NAME, load_checkpoint
from training.config import TrainConfig, load_config
from training.loop import fit

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TIMEOUT_S = 120


def flags(data: Path, out: Path, *more: object) -> list[str]:
    common = ["--network", "resnet8", "--batch-size", "32", "--shift-px", "1", "--device", "cpu"]
    rest = ["--data", str(data), "--out", str(out), *map(str, more)]
    return [str(ADARESNET), "train", *common, "--no-tensorboard", *rest]


def start(command: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ONE_THREAD)


def run(command: list[str]) -> tuple[int, str, str]:
    process = start(command)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, output, errors


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Read standard error up to a line."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(beginning):
            return
    pytest.fail("".join(seen))


def test_help_prints_every_flag():
    status, output, _ = run([str(ADARESNET), "train", "--help"])
    assert status == 0
    assert "--recipe" in output
    for name in TrainConfig.model_fields:
        assert re.search(rf"--{name.replace('_', '-')}\b", output), name


def test_a_run_says_what_it_needs_and_how_long_it_takes(image_folder, tmp_path):
    more = ["--epochs", 2, "--batch-size", 8]
    status, output, errors = run(flags(image_folder, tmp_path / "r", *more))
    assert status == 0, errors
    said = [line for line in errors.splitlines() if line]
    assert said[0].startswith("data: colors, 192 training and 48 test images")
    assert re.match(r"needs about .* of memory: .*GB are free", said[1])
    assert said[2].startswith("network: resnet8")
    assert re.match(r"time: about \d+ s an epoch, \d+ s in all", said[3])
    assert said[4].startswith("epoch 1/2: loss ")
    assert "left" in said[4]
    assert said[5].startswith("epoch 2/2: loss ")
    assert output.startswith("test accuracy ")
    assert str(tmp_path / "r") in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_what_a_resumed_run_ends(image_folder, tmp_path, number):
    command = flags(image_folder, tmp_path / "r", "--epochs", 12)
    process = start(command)
    wait_for(process, "epoch 2/")
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "stopping" in errors
    assert "--resume" in errors.splitlines()[-1]
    assert str(tmp_path / "r") in errors.splitlines()[-1]
    stopped, _ = load_checkpoint(tmp_path / "r")
    assert 2 <= stopped.epochs_done < 12
    # Here, for the command that resumes is seen in system/test_processes.py.
    again = load_config([*command[2:], "--resume"], None, program="a test")
    assert fit(again, lambda line: None).epochs_done == 12
    assert load_checkpoint(tmp_path / "r")[0].epochs_done == 12


def test_a_second_signal_stops_at_once(image_folder, tmp_path):
    # One step takes far longer than the pause between the signals.
    more = ["--epochs", 50, "--batch-size", 192, "--width", 8]
    process = start(flags(image_folder, tmp_path / "r", *more))
    wait_for(process, "network:")
    process.send_signal(signal.SIGINT)
    wait_for(process, "adaresnet train: stopping")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "adaresnet train: stopped; nothing saved"
    assert not (tmp_path / "r" / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--epochs", 0], "--epochs: "),
        (["--scale-init", "constant"], "--scale-value"),
        (["--preset", "none-such"], "adaresnet-unified"),
        (["--recipe", "none-such"], "standard"),
        (["--accumulate", 3], "multiple of accumulate"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_wrong_flags_are_told_in_one_line(image_folder, tmp_path, more, words):
    status, output, errors = run(flags(image_folder, tmp_path / "r", *more))
    assert status == 2
    assert output == ""
    assert words in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data", "/no/such/folder"], "/no/such/folder"),
        (["--network", "resnet21"], "resnet20"),
    ],
)
def test_what_can_not_run_says_so_at_once(image_folder, tmp_path, more, words):
    status, _, errors = run(flags(image_folder, tmp_path / "r", *more))
    assert status == 1
    assert words in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not (tmp_path / "r" / FILE_NAME).exists()


def read_terminal(descriptor: int) -> str:
    parts = []
    with contextlib.suppress(OSError):  # Linux says EIO when the other side has closed
        while part := os.read(descriptor, 65536):
            parts.append(part)
    return b"".join(parts).decode()


def test_on_a_terminal_a_bar_shows_how_it_goes(image_folder, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    more = ["--epochs", 2, "--batch-size", 8]
    process = subprocess.Popen(
        flags(image_folder, tmp_path / "r", *more), stderr=theirs, stdout=theirs, env=ONE_THREAD
    )
    os.close(theirs)
    shown = read_terminal(ours)
    os.close(ours)
    assert process.wait(TIMEOUT_S) == 0, shown
    bars = [part for part in re.split(r"[\r\n]", shown) if "epoch 1/2:" in part and "|" in part]
    wanted = r"\d+%\|.*\d+/192 \[\d\d:\d\d<\d\d:\d\d, .*images/s, acc=\d+\.\d%, loss=\d+\.\d{3}\]"
    assert any(re.search(wanted, bar) for bar in bars), shown


def test_the_seed_and_the_data_are_on_record(trained_run):
    record = json.loads((trained_run / "run.json").read_text())
    assert record["config"]["seed"] == 0
    assert record["data_digest"]
    assert record["versions"]["python"]
    assert record["versions"]["torch"]

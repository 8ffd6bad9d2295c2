from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, tiny_config
from training import needs
from training.config import TrainConfig
from training.data import memory
from training.errors import TrainingError
from training.loop import fit
from training.needs import (
    MemoryNeed,
    estimate_memory,
    evaluation_images,
    free_bytes,
    say_duration,
    say_fitting,
)
from training.networks.network import NetworkOptions
from training.networks.registry import build_network

CPU = torch.device("cpu")


def estimate(name: str = "resnet8", processes: int = 1, **changes: object) -> MemoryNeed:
    config = tiny_config(Path("data"), Path("out"), network=name, **changes)
    with torch.device("meta"):
        network = build_network(name, NetworkOptions(3, 10, 32))
    return estimate_memory(config, network, (3, 32, 32), 1000, processes)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_estimates_are_within_half_of_what_training_takes():
    cases = [
        ("resnet20", "48", "32", "float32"),
        ("resnet18-cifar", "8", "32", "bfloat16"),
    ]
    command = [sys.executable, "-m", "tests.training.in_one_process"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for case in cases:
        output = subprocess.check_output([*command, *case], env=environment, cwd=ROOT, timeout=200)
        estimated, measured = map(int, output.split())
        assert 1 / 1.5 < measured / estimated < 1.5, (case, estimated, measured)


def test_what_the_estimate_follows():
    whole = estimate(batch_size=64)
    assert whole.data == 1000
    assert whole.total == whole.data + whole.weights + whole.activations
    assert "about" in str(whole)
    half = pytest.approx(whole.activations / 2, rel=0.05)
    assert estimate(batch_size=32).activations == half
    assert estimate(batch_size=64, accumulate=2).activations == half
    assert estimate(batch_size=64, processes=2).activations == half
    assert estimate(batch_size=64, precision="bfloat16").activations < whole.activations
    weights = sum(
        p.numel() * 4 for p in build_network("resnet8", NetworkOptions(3, 10)).parameters()
    )
    besides = needs._BESIDES
    assert whole.weights == int(3 * weights * besides)  # with gradients and momentum
    assert estimate(optimizer="adamw", ema=0.9).weights == int(5 * weights * besides)


def test_a_run_that_can_not_fit_says_so_at_once(image_folder, tmp_path):
    config = tiny_config(image_folder, tmp_path / "r", network="wrn-28-10", batch_size=1_000_000)
    said: list[str] = []
    with pytest.raises(TrainingError, match=r"needs about \d+.* GB are free") as raised:
        fit(config, said.append)
    assert any(line.startswith("needs about") for line in said)
    hint = str(raised.value)
    fitting = int(hint.rpartition("lower --batch-size to ")[2].partition(",")[0])
    parts = int(hint.rpartition("raise --accumulate to ")[2])
    assert 2 <= fitting < 1_000_000
    assert 1_000_000 % parts == 0
    free = free_bytes(CPU)
    assert free is not None
    for changes in ({"batch_size": fitting}, {"batch_size": 1_000_000, "accumulate": parts}):
        with torch.device("meta"):
            network = build_network("wrn-28-10", NetworkOptions(3, 3, 16))
        smaller = TrainConfig.model_construct(**{**dict(config), **changes})
        assert estimate_memory(smaller, network, (3, 16, 16), 0).total < 1.1 * free


def test_where_no_batch_fits(tmp_path):
    config = tiny_config(tmp_path, tmp_path)
    need = MemoryNeed(0, 10**9, 10**6)
    assert "smaller network" in say_fitting(need, 10**9, config, 1)
    assert "--batch-size to 28," in say_fitting(need, 10**9 + 10**6, config, 1)


def test_evaluation_takes_no_more_than_training(tmp_path):
    assert evaluation_images(tiny_config(tmp_path, tmp_path, batch_size=1024), 1) == 500
    assert evaluation_images(tiny_config(tmp_path, tmp_path, batch_size=64), 1) == 128
    small = tiny_config(tmp_path, tmp_path, batch_size=64, accumulate=4)
    assert evaluation_images(small, 2) == 16


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "0", 8 * 1024**2), ("3000000", "1000000", 2_000_000), ("a", "0", 8 * 1024**2)],
)
def test_free_memory_is_that_of_the_container(tmp_path, monkeypatch, limit, used, expected):
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8192 kB\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert free_bytes(CPU) == expected
    (tmp_path / "meminfo").unlink()
    found = free_bytes(CPU)  # what the C library says, where it does
    assert found is None or found > 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 s"), (89, "89 s"), (120, "2 min"), (7200, "2.0 h")]
)
def test_durations(seconds, words):
    assert say_duration(seconds) == words

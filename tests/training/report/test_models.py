from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoint import CheckpointError
from training.report.errors import ReportError
from training.report.models import find_model, open_model, shorten
from training.report.runs import open_run, pick_device


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_what_a_path_means(tmp_path):
    checkpoint = touch(tmp_path / "run" / "checkpoint.safetensors")
    assert find_model(checkpoint.parent) == (checkpoint, "checkpoint")
    assert find_model(checkpoint) == (checkpoint, "checkpoint")
    touch(tmp_path / "models" / "m" / "9" / "model.onnx")
    newest = touch(tmp_path / "models" / "m" / "10" / "model.onnx")
    touch(tmp_path / "models" / "m" / "draft" / "model.onnx")
    assert find_model(tmp_path / "models" / "m") == (newest, "onnx")
    assert find_model(newest.parent) == (newest, "onnx")
    assert find_model(newest) == (newest, "onnx")
    with pytest.raises(ReportError, match=r"is a repository of \[m\]; give one model's folder"):
        find_model(tmp_path / "models")
    with pytest.raises(ReportError, match="does not exist"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(ReportError, match="holds neither"):
        find_model(tmp_path / "models" / "m" / ".." / ".." / "run" / "..")


def test_long_lists_are_shortened():
    assert shorten(("a", "b")) == "[a, b]"
    assert shorten([str(n) for n in range(100)]) == "[0, 1, 2, 3, 4, and 95 more]"


def test_a_checkpoint_and_its_export_answer_alike(trained_run, exported, rng):
    one = open_model(trained_run, "cpu", 4)
    other = open_model(exported.repository / "colors", "cpu", 4)
    assert (one.format, other.format) == ("checkpoint", "onnx")
    assert one.class_names == other.class_names
    assert one.trained_on.digest == other.trained_on.digest
    assert (one.trained_on.source is None, other.trained_on.source) == (False, None)
    pixels = torch.from_numpy(rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    a, b = one.answer(pixels), other.answer(pixels)
    assert a.dtype == b.dtype == np.float32
    assert a.shape == (5, 3)
    assert np.allclose(a, b, atol=1e-3)


def test_a_damaged_checkpoint_is_refused(trained_run, tmp_path):
    whole = (trained_run / "checkpoint.safetensors").read_bytes()
    torn = tmp_path / "checkpoint.safetensors"
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="no checkpoint of this program"):
        open_run(torn)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_missing_gpu_is_said():
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ReportError, match="no CUDA device"):
        pick_device("cuda")

from __future__ import annotations

import pytest

from service.commands.build_engines import build_engines
from service.engine.providers import built_in


@pytest.mark.parametrize("device", ["cpu", "cuda", "auto"])
def test_engines_are_for_tensorrt(exported, capsys, device):
    assert build_engines(["--models", str(exported.repository), "--device", device]) == 2
    assert "--device tensorrt" in capsys.readouterr().err


def test_a_device_that_is_none(capsys):
    assert build_engines(["--device", "tensorrt:x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_without_models(tmp_path, capsys):
    assert build_engines(["--models", str(tmp_path), "--device", "tensorrt"]) == 1
    assert "no models" in capsys.readouterr().err


@pytest.mark.skipif(built_in("tensorrt"), reason="this ONNX Runtime has TensorRT")
def test_without_tensorrt_every_model_is_named_with_the_reason(exported, capsys):
    argv = ["--models", str(exported.repository), "--device", "tensorrt:0", "--rebuild"]
    assert build_engines(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.onnx on tensorrt:0: The installed ONNX Runtime has no TensorRT" in line


def test_its_help_is_its_own(capsys):
    assert build_engines(["--help"]) == 0
    assert "--rebuild" in capsys.readouterr().out

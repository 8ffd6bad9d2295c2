"""``adaresnet verify`` passes what is right and finds what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.cli import main
from service.engine.digest import BLANK_DIGEST, seal
from tests.conftest import MODELS, Exported
from tests.service.commands.altered import read_metadata, with_changes, with_damage


def verify(*argv: object) -> int:
    return main(["verify", *map(str, argv)])


def test_a_fresh_export_passes_and_shows_every_picture(exported: Exported, capsys):
    assert verify(exported.result.path, "--device", "cpu") == 0
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.endswith("  ok")]
    assert len(rows) == 12
    assert "CPUExecutionProvider" in shown
    assert "matches: the file is as it was written" in shown
    assert "passed: 12 golden images" in shown


def test_json_names_classes_differences_and_bounds(exported: Exported, capsys):
    assert verify(exported.repository / "colors", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["faults"] == []
    assert told["digest"] == "matches"
    assert told["precision"] == "fp32"
    for picture in told["golden_images"]:
        assert picture["passed"]
        assert picture["difference"] <= picture["tolerance"]
        assert picture["found"] == picture["expected"]


@pytest.mark.parametrize("where", ["colors", "colors/1"])
def test_a_name_in_a_repository(exported: Exported, where, capsys):
    assert verify(where, "--models", exported.repository) == 0
    assert str(exported.result.path) in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_the_shipped_models_pass(name, capsys):
    assert verify(name, "--models", MODELS) == 0
    assert "passed" in capsys.readouterr().out


def test_one_turned_bit_is_found_though_no_logit_shows_it(exported: Exported, tmp_path, capsys):
    damaged = with_damage(exported.result.path, tmp_path / "damaged.onnx")
    assert verify(damaged) == 1
    shown = capsys.readouterr().out
    assert "FAILED: the file was changed after it was written" in shown
    assert shown.count("  ok") == 12


@pytest.mark.parametrize(
    "resize",
    [
        {"rule": "stretch", "filter": "bilinear", "crop": 1.0},
        {"rule": "center_crop", "filter": "nearest", "crop": 1.0},
        {"rule": "center_crop", "filter": "bilinear", "crop": 0.875},
    ],
    ids=["rule", "filter", "crop"],
)
def test_another_resize_is_found(exported: Exported, tmp_path, resize, capsys):
    size = read_metadata(exported.result.path)["input"] | {"resize": resize}
    altered = with_changes(exported.result.path, tmp_path / "x.onnx", {"input": size})
    assert verify(altered) == 1
    shown = capsys.readouterr().out
    assert "matches" in shown  # whoever did it sealed the file again
    assert "golden images differ from PyTorch" in shown


def test_reordered_labels_are_found(exported: Exported, tmp_path, capsys):
    labels = read_metadata(exported.result.path)["labels"][::-1]
    altered = with_changes(exported.result.path, tmp_path / "x.onnx", {"labels": labels})
    assert verify(altered) == 1
    assert "changed or reordered" in capsys.readouterr().err


def test_other_weights_are_found(exported: Exported, tmp_path, capsys):
    model = onnx.load(exported.result.path)
    weight = next(w for w in model.graph.initializer if w.name == "classifier.weight")
    swapped = numpy_helper.to_array(weight)[::-1].copy()
    weight.CopyFrom(numpy_helper.from_array(swapped, weight.name))
    digest = read_metadata(exported.result.path)["file_digest"]
    (prop,) = model.metadata_props
    prop.value = prop.value.replace(digest, BLANK_DIGEST)
    altered = tmp_path / "x.onnx"
    altered.write_bytes(seal(model.SerializeToString()))
    assert verify(altered) == 1
    shown = capsys.readouterr().out
    assert "12 of 12 golden images differ" in shown
    assert "matches" in shown


def test_a_picture_that_no_longer_decodes_is_found(exported: Exported, tmp_path, capsys):
    golden = read_metadata(exported.result.path)["golden"]
    golden["images"][0]["data"] = "AAAA"
    altered = with_changes(exported.result.path, tmp_path / "x.onnx", {"golden": golden})
    assert verify(altered) == 1
    shown = capsys.readouterr().out
    assert "1 of 12 golden images differ" in shown
    assert "not an image" in shown


def test_a_file_without_pictures_proves_nothing(exported: Exported, tmp_path, capsys):
    bare = with_changes(exported.result.path, tmp_path / "x.onnx", {"golden": None})
    assert verify(bare) == 1
    assert "no golden images" in capsys.readouterr().out


def test_what_is_no_model_or_not_there(tmp_path, capsys):
    assert verify(tmp_path / "none.onnx") == 1
    assert "There is no model at" in capsys.readouterr().err
    (tmp_path / "junk.onnx").write_bytes(np.arange(99, dtype=np.uint8).tobytes())
    assert verify(tmp_path / "junk.onnx") == 1
    assert "junk.onnx" in capsys.readouterr().err


def test_a_wrong_device_in_the_environment_is_named(monkeypatch, capsys):
    monkeypatch.setenv("ADARESNET_DEVICE", "tpu")
    with pytest.raises(SystemExit) as exited:
        verify("x")
    assert exited.value.code == 2
    assert "'tpu' is none of auto, cpu, cuda and tensorrt" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_no_torch_and_no_onnx_is_needed(exported: Exported, command):
    script = f"""
import sys
for name in ("torch", "onnx", "training", "datasets"):
    sys.modules[name] = None  # importing it now fails
from service.commands.{command} import {command}
sys.exit({command}([{str(Path(exported.result.path))!r}]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True)

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from service.commands.import_model import import_model
from service.engine.bundle import read_bundle
from service.engine.session import Session, SessionOptions
from tests.service.foreign_models import keras_like, torch_legacy


@pytest.fixture
def folder(tmp_path) -> Path:
    path: Path = tmp_path / "here"
    path.mkdir()
    return path


def run(folder: Path, *flags: object) -> int:
    command = [str(folder / "foreign.onnx"), "--name", "net", "--models", str(folder / "models")]
    return import_model([*command, *map(str, flags)])


def config_of(folder: Path, version: int = 1) -> dict[str, object]:
    return tomllib.loads((folder / "models" / "net" / str(version) / "config.toml").read_text())


def test_everything_that_can_be_found_out_is_not_asked_for(folder, capsys):
    torch_legacy(folder / "foreign.onnx")
    assert run(folder) == 0
    out = capsys.readouterr().out
    for words in (
        "models/net/1/model.onnx",
        "takes NCHW float32, 3 channels of 224 x 224, as 'pictures'",
        "gives 5 classes, without names (see --labels), as logits in 'scores'",
        "a drawn picture is ",
        "ASSUMED, check in ",
        "mean = [0.485, 0.456, 0.406]",
    ):
        assert words in out
    bundle = read_bundle(folder / "models" / "net" / "1" / "model.onnx")
    assert bundle.model == (folder / "foreign.onnx").read_bytes()
    session = Session(bundle.model, SessionOptions("cpu"), bundle.config)
    assert session.run(np.zeros((1, 224, 224, 3), np.uint8)).probabilities.shape == (1, 5)


def test_everything_that_is_known_can_be_given(folder, capsys):
    torch_legacy(folder / "foreign.onnx")
    (folder / "labels.json").write_text('{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}')
    assert (
        run(
            folder, "--labels", folder / "labels.json", "--mean", "1,2,3", "--std", "4,5,6",
            "--pixel-max", "255", "--color", "bgr", "--rule", "stretch", "--filter", "bicubic",
            "--crop", "0.875", "--size", "224x224", "--layout", "NCHW", "--batch-size", "2",
            "--output", "scores", "--kind", "logits", "--description", "Letters",
        )
        == 0
    )  # fmt: skip
    assert "ASSUMED" not in capsys.readouterr().out
    config = config_of(folder)
    assert config.pop("sha256")
    assert config == {
        "description": "Letters",
        "labels": "labels.txt",
        "input": {
            "name": "pictures", "datatype": "float32", "layout": "NCHW", "height": 224,
            "width": 224, "batch_size": 2,
            "resize": {"rule": "stretch", "filter": "bicubic", "crop": 0.875},
        },
        "normalization": {
            "color": "bgr", "pixel_max": 255.0, "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0],
        },
        "output": {"name": "scores", "kind": "logits"},
    }  # fmt: skip
    assert (folder / "models/net/1/labels.txt").read_text() == "a\nb\nc\nd\ne\n"


def test_versions_are_counted_and_labels_found(folder, capsys):
    keras_like(folder / "foreign.onnx", metadata={"classes": '["a", "b", "c", "d"]'})
    assert run(folder) == run(folder) == 0
    assert "named 'a' to 'd', as probabilities in 'classes'" in capsys.readouterr().out
    assert config_of(folder, 1) == config_of(folder, 2)
    assert list((folder / "models" / "net").glob(".*")) == []


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--name", "a b"], "'a b' can't be a model's name"),
        (["--size", "32"], "config.toml: input.height is 32, but the graph has 224."),
        (["--size", "0"], "height is 0: Input should be greater than or equal to 1"),
        (["--mean", "1,2"], "config.toml: normalization.mean has 2 values, but the graph takes 3"),
        (["--std", "0,1,1"], "config.toml: normalization.std.0 is 0.0, but it should be greater"),
        (["--crop", "2"], "config.toml: input.resize.crop is 2.0, but it should be less than"),
        (["--kind", "probabilities"], "config.toml: output.kind is 'probabilities', but"),
        (["--labels", "nowhere.txt"], "--labels nowhere.txt can't be read"),
        (["--labels", "/dev/null"], "--labels /dev/null has no labels"),
        (["--labels", __file__], "config.toml: labels has "),
        (["--models", "/proc/nowhere"], "can't write into /proc/nowhere/net"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(folder, capsys, flags, line):
    torch_legacy(folder / "foreign.onnx")
    assert run(folder, *flags) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith(f"adaresnet import: {line}")
    assert error.count("\n") == 1
    assert not list(folder.glob("models/*/*"))


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_what_is_no_model(folder, capsys, content):
    if content is not None:
        (folder / "foreign.onnx").write_bytes(content)
    assert run(folder) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no ONNX model" in error or "No such file" in error


def test_our_own_files_are_left_to_publish(folder, capsys, exported):
    (folder / "foreign.onnx").write_bytes(exported.result.path.read_bytes())
    assert run(folder) == 1
    assert "says all about itself" in capsys.readouterr().err

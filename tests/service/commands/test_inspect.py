"""``adaresnet inspect`` says what a file is, whoever wrote it."""

from __future__ import annotations

import json

import onnx
import pytest

from service.cli import main
from tests.conftest import CLASSES, MODELS, Exported
from tests.service.commands.altered import read_metadata, with_changes, with_damage


def inspect(*argv: object) -> int:
    return main(["inspect", *map(str, argv)])


def shown_rows(text: str) -> dict[str, str]:
    """First words to the rest, by line."""
    rows = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition("  ")
        rows[name] = value.strip()
    return rows


def test_what_it_is_and_how_it_was_proved(exported: Exported, capsys):
    assert inspect(exported.result.path) == 0
    text = capsys.readouterr().out
    rows = shown_rows(text)
    assert rows["digest"] == "matches, the file is as it was written"
    assert rows["network"].startswith("resnet8, ")
    assert rows["precision"] == "fp32"
    assert rows["classes"] == f"3: {', '.join(CLASSES)}"
    assert "uint8 [N, 16, 16, 3]" in rows["input"]
    assert "9 BatchNormalization" in text
    assert "BatchNormalization" not in rows["operators"]
    assert rows["proved on"].startswith("48 real images")
    assert "stage3_block1, projection" in text
    assert text.count("identity") == 1
    assert rows["golden images"].startswith("12 (image/jpeg, image/png)")
    assert "PyTorch in float32" in rows["accuracy"]
    assert "one by one" in text


def test_json_has_everything_but_the_pictures_bytes(exported: Exported, capsys):
    assert inspect("colors", "--models", exported.repository, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == "matches"
    assert told["inputs"] == [
        {"name": "images", "datatype": "tensor(uint8)", "shape": ["N", 16, 16, 3]}
    ]
    assert told["metadata_from"] == "file"
    written = read_metadata(exported.result.path)
    assert (
        told["metadata"]["verification"]["batch_difference"]
        == (written["verification"]["batch_difference"])
    )
    assert [set(image) for image in told["metadata"]["golden"]["images"]] == [
        {"media_type", "logits", "label"}
    ] * 12


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_shipped_models_of_an_older_schema(name, capsys):
    assert inspect(name, "--models", MODELS) == 0
    assert "proved on" in capsys.readouterr().out


def test_a_changed_file_is_marked(exported: Exported, tmp_path, capsys):
    assert inspect(with_damage(exported.result.path, tmp_path / "x.onnx")) == 0
    assert "DIFFERS" in capsys.readouterr().out


def test_forced_and_rounded_exports_say_so(exported: Exported, tmp_path, capsys):
    verification = read_metadata(exported.result.path)["verification"] | {
        "forced": "lost too much",
        "rounded_difference": 0.5,
        "rounded_agreement": 0.75,
        "calibration_images": 99,
    }
    altered = with_changes(
        exported.result.path,
        tmp_path / "x.onnx",
        {"verification": verification, "description": "Colours"},
    )
    assert inspect(altered) == 0
    rows = shown_rows(capsys.readouterr().out)
    assert rows["FORCED"] == "lost too much"
    assert "75.00%" in rows["as a GPU rounds"]
    assert rows["calibrated"] == "on 99 training images"
    assert rows["description"] == "Colours"


def test_a_foreign_file_shows_what_onnx_runtime_tells(exported: Exported, tmp_path, capsys):
    model = onnx.load(exported.result.path)
    del model.metadata_props[:]
    foreign = tmp_path / "foreign.onnx"
    onnx.save(model, foreign)
    assert inspect(foreign) == 0
    text = capsys.readouterr().out
    assert "no metadata of ours" in text
    assert "logits tensor(float) [N, 3]" in text
    assert "GlobalAveragePool" in text
    assert inspect(foreign, "--json") == 0
    assert json.loads(capsys.readouterr().out)["metadata"] is None


def test_metadata_that_is_not_valid_ends_in_one_line(exported: Exported, tmp_path, capsys):
    broken = with_changes(exported.result.path, tmp_path / "x.onnx", {"labels": []})
    assert inspect(broken) == 1
    error = capsys.readouterr().err
    assert "'labels'" in error
    assert len(error.splitlines()) == 1

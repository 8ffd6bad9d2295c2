"""``adaresnet publish`` writes what is right, once, and never over anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.cli import main
from service.engine.publish import PublishError, write_file
from tests.conftest import Exported
from tests.service.commands.altered import with_changes, with_damage


def publish(*argv: object) -> int:
    return main(["publish", *map(str, argv)])


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_versions_count_up_and_hold_the_very_bytes(exported: Exported, tmp_path, capsys):
    models, data = tmp_path / "models", exported.result.path.read_bytes()
    for version in (1, 2):
        command = (exported.result.path, "--name", "copy", "--models", models)
        assert publish(*command, "--device", "cpu") == 0
        assert capsys.readouterr().out == f"wrote {models / 'copy' / str(version)}/model.onnx\n"
    assert everything_in(models) == {"copy/1/model.onnx": data, "copy/2/model.onnx": data}
    assert publish(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out)["version"] == 3


def test_what_fails_verify_is_not_written(exported: Exported, tmp_path, capsys):
    damaged = with_damage(exported.result.path, tmp_path / "damaged.onnx")
    bare = with_changes(exported.result.path, tmp_path / "bare.onnx", {"golden": None})
    models = tmp_path / "models"
    for file, said in ((damaged, "was changed after it was written"), (bare, "adaresnet import")):
        assert publish(file, "--name", "x", "--models", models) == 1
        assert said in capsys.readouterr().err
    assert not models.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x"])
def test_unusable_names(exported: Exported, tmp_path, name, capsys):
    assert publish(exported.result.path, f"--name={name}", "--models", tmp_path) == 1
    assert "can't be a model's name" in capsys.readouterr().err
    assert everything_in(tmp_path) == {}


def test_a_folder_that_can_not_be_written(exported: Exported, tmp_path, capsys):
    (tmp_path / "models").write_text("a file")
    assert publish(exported.result.path, "--name", "x", "--models", tmp_path / "models") == 1
    assert "can't write into" in capsys.readouterr().err


def test_a_file_of_ones_own_is_complete_or_not_there(tmp_path):
    path = tmp_path / "folder" / "model.onnx"
    assert write_file(b"first", path) == path
    with pytest.raises(PublishError, match="exists"):
        write_file(b"second", path)
    assert everything_in(tmp_path) == {"folder/model.onnx": b"first"}
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(PublishError, match="can't write"):
        write_file(b"x", tmp_path / "plain" / "model.onnx")

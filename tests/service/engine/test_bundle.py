from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from service.engine.bundle import read_bundle, take_stamp, unchanged
from service.engine.errors import ModelLoadError
from service.model_config import ModelConfig


@pytest.fixture
def model(tmp_path) -> Path:
    """``name/1/model.onnx``; that it is no model plays no part here."""
    path: Path = tmp_path / "name" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"model")
    return path


def config_of(model: Path) -> ModelConfig:
    config = read_bundle(model).config
    assert config is not None
    return config


def refuse(model: Path, sentence: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        read_bundle(model)
    assert caught.value.detail == sentence


def test_the_version_s_own_configuration_wins(model):
    assert read_bundle(model).config is None
    (model.parent.parent / "config.toml").write_text("description = 'all'")
    assert config_of(model).description == "all"
    (model.parent / "config.toml").write_text("description = 'one'")
    bundle = read_bundle(model)
    assert config_of(model).description == "one"
    assert bundle.digest == hashlib.sha256(b"model").hexdigest()


def test_every_file_that_counts_is_watched(model):
    folder, name = model.parent, model.parent.parent
    stamp = take_stamp(model)
    for path, content in (
        (name / "config.toml", "labels = 'names.txt'"),
        (name / "names.txt", "a"),
        (folder / "config.toml", "labels = 'labels.txt'"),
        (folder / "labels.txt", "a\nb"),
        (folder / "labels.txt", "a\nc"),
        (model, "model2"),
    ):
        assert unchanged(stamp)
        before = read_bundle(model).config_digest if path.exists() else None
        path.write_text(content)
        assert not unchanged(stamp)
        stamp = take_stamp(model)
        if "labels" in path.name:
            assert read_bundle(model).config_digest != before
    # What the version's own file hides may change as it likes.
    (name / "config.toml").write_text("")
    assert unchanged(stamp)
    (folder / "config.toml").unlink()
    assert not unchanged(stamp)


def test_labels_from_a_file(model):
    (model.parent / "config.toml").write_text("labels = 'labels.txt'")
    (model.parent / "labels.txt").write_bytes("\ufeffKatze\r\nHünd \n\n".encode())
    assert config_of(model).labels == ["Katze", "Hünd"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (b"", "config.toml: labels is 'l.txt', but it is empty; it should have one label a line."),
        (
            b"a\n\nb",
            "config.toml: labels is 'l.txt', but line 2 is empty; it should have one label a line.",
        ),
        (b"\xff", "config.toml: byte 0 is no UTF-8."),
        (None, "l.txt is not there, or no file."),
    ],
)
def test_label_files_that_are_wrong(model, labels, sentence):
    (model.parent / "config.toml").write_text("labels = 'l.txt'")
    if labels is not None:
        (model.parent / "l.txt").write_bytes(labels)
    refuse(model, sentence)


@pytest.mark.parametrize("name", ["/etc/passwd", "../l.txt", "a/l.txt", "..", "a\\u0000"])
def test_labels_come_from_beside_only(model, name):
    (model.parent / "config.toml").write_text(f'labels = "{name}"')
    with pytest.raises(ModelLoadError, match="should be the plain name of a file beside it"):
        read_bundle(model)
    take_stamp(model)


def test_a_label_file_that_links_elsewhere(model):
    (model.parent / "config.toml").write_text("labels = 'l.txt'")
    (model.parent / "l.txt").symlink_to("/etc/hostname")
    refuse(model, "config.toml: labels is 'l.txt', a link that leaves its folder.")


def test_another_model_than_the_configuration_was_written_for(model):
    digest = hashlib.sha256(b"model").hexdigest()
    (model.parent / "config.toml").write_text(f"sha256 = '{digest}'")
    read_bundle(model)
    model.write_bytes(b"modem")
    found = hashlib.sha256(b"modem").hexdigest()
    refuse(
        model,
        f"The file is damaged or another one: its SHA-256 is {found}, and config.toml says"
        f" {digest}.",
    )


def test_files_that_can_not_be_read(model):
    config = model.parent / "config.toml"
    config.write_text("a =")
    refuse(model, "config.toml: this is no TOML: Invalid value (at end of document).")
    config.write_bytes(b"#" * (2**20 + 1))
    refuse(model, "config.toml has 1048577 bytes; the limit is 1048576.")
    config.unlink()
    os.mkfifo(config)
    refuse(model, "config.toml is not there, or no file.")
    config.unlink()
    with model.open("r+b") as file:
        file.truncate(2**31)
    refuse(model, "model.onnx has 2147483648 bytes; the limit is 2147483647.")

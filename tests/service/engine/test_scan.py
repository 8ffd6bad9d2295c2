"""Which files of a folder are versions, and of what."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.engine.scan import scan


@pytest.fixture
def root(tmp_path) -> Path:
    folder: Path = tmp_path / "models"
    folder.mkdir()
    return folder


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a model")


def found(root: Path, name: str | None = None) -> list[tuple[str, int, str]]:
    return [(n, v, str(path.relative_to(root))) for n, v, path in scan(root, name)[0]]


def test_a_repository(root):
    put(root, "b/2/model.onnx", "a/10/model.onnx", "a/9/model.onnx")
    expected = [
        ("a", 9, "a/9/model.onnx"),
        ("a", 10, "a/10/model.onnx"),
        ("b", 2, "b/2/model.onnx"),
    ]
    assert found(root) == expected
    assert found(root, "cats") == expected  # several models keep their names


def test_what_is_no_version_is_told(root):
    put(root, "a/01/model.onnx", "a/1/other.onnx", "a b/1/model.onnx", "a/.new/model.onnx", "x.txt")
    assert found(root) == []
    assert {str(path.relative_to(root)) for path in scan(root)[1]} == {"a/01", "a/1", "a b"}


@pytest.mark.parametrize(
    ("files", "versions"),
    [
        (["model.onnx"], {1: "model.onnx"}),
        (["model.onnx", "config.toml", "labels.txt"], {1: "model.onnx"}),
        (["3/model.onnx"], {3: "3/model.onnx"}),
        (["3/model.onnx", "4/model.onnx", "config.toml"],
         {3: "3/model.onnx", 4: "4/model.onnx"}),
        (["model.onnx", "1/model.onnx"], {1: "1/model.onnx"}),
        (["model.onnx", "2/model.onnx"], {1: "model.onnx", 2: "2/model.onnx"}),
        (["dogs/1/model.onnx", "dogs/2/model.onnx"],
         {1: "dogs/1/model.onnx", 2: "dogs/2/model.onnx"}),
        (["cats/1/model.onnx"], {1: "cats/1/model.onnx"}),
    ],
)  # fmt: skip
def test_a_folder_of_one_model_goes_by_the_name_that_is_given(root, files, versions):
    put(root, *files)
    assert found(root, "cats") == [("cats", n, path) for n, path in sorted(versions.items())]


def test_without_a_name_it_is_told_what_lies_there(root):
    put(root, "model.onnx", "3/model.onnx", "dogs/1/model.onnx")
    assert found(root) == [("dogs", 1, "dogs/1/model.onnx")]
    assert scan(root)[1] == {root / "model.onnx", root / "3" / "model.onnx"}


def test_a_stray_file_hides_no_model(root):
    put(root, "dogs/1/model.onnx", "mice/1/model.onnx", "model.onnx")
    assert {name for name, _, _ in found(root, "cats")} == {"dogs", "mice", "cats"}
    put(root, "cats/1/model.onnx")
    assert ("cats", 1, "cats/1/model.onnx") in found(root, "cats")


def test_numbers_may_name_models(root):
    put(root, "1/2/model.onnx", "2/1/model.onnx")
    assert found(root, "cats") == found(root) == [
        ("1", 2, "1/2/model.onnx"),
        ("2", 1, "2/1/model.onnx"),
    ]  # fmt: skip


@pytest.mark.parametrize("folders", [["1"], ["1", "2"], ["dogs"]])
def test_folders_that_can_not_be_read_are_those_of_the_model(root, monkeypatch, folders):
    for name in folders:
        (root / name).mkdir()
    whole = Path.iterdir

    def denied(path: Path):
        if path.parent == root:
            raise PermissionError(path)
        return whole(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    versions, skipped, unreadable = scan(root, "cats")
    assert not versions
    assert skipped == {root / name for name in folders}
    assert "cats" in unreadable


def test_a_folder_that_is_not_there(root):
    with pytest.raises(FileNotFoundError):
        scan(root / "none", "cats")

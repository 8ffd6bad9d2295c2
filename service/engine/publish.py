"""Put a version into the model repository in one step."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePath

from service.metadata import MODEL_FILE, MODEL_NAME


class PublishError(Exception):
    """The name is not usable, or the folder can't be written."""


def check_name(name: str) -> None:
    """Refuse names that a URL or a file system would choke on.

    Raises:
        PublishError: Not 1 to 100 letters, digits, dots, dashes and underscores.
    """
    if not MODEL_NAME.fullmatch(name):
        raise PublishError(
            f"{name!r} can't be a model's name: use letters, digits, '.', '-' and '_',"
            " beginning with a letter or a digit"
        )


def publish(
    model: bytes, repository: Path, name: str, beside: Mapping[str, bytes] | None = None
) -> Path:
    """Write a model as the next version of its name; an existing version is never touched.

    The version's folder appears complete or not at all: it is written aside, flushed to the disk,
    then renamed.

    Args:
        model: The model file.
        repository: Folder of all models.
        name: The model's name.
        beside: Further files of the version, by their plain names.

    Returns:
        Path of the new file, ``repository/name/version/model.onnx``.

    Raises:
        PublishError: The name is not usable, or the folder can't be written.
    """
    check_name(name)
    folder = repository / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as temporary:
            # A folder inside, because the temporary one itself is readable for its owner only.
            aside = Path(temporary) / "version"
            aside.mkdir()
            for file, content in {MODEL_FILE: model, **(beside or {})}.items():
                _write(aside / PurePath(file).name, content)
            _flush_folder(aside)
            path = _rename_to_next_version(aside, folder) / MODEL_FILE
            _flush_folder(folder)
            return path
    except OSError as error:
        raise PublishError(f"can't write into {folder}: {error.strerror}") from error


def write_file(model: bytes, path: Path) -> Path:
    """Write a model to one file, complete or not at all; an existing file is never touched.

    Raises:
        PublishError: The file exists, or can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as temporary:
            aside = Path(temporary) / MODEL_FILE
            _write(aside, model)
            _reserve(path)  # a rename alone would replace a file that is there
            aside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise PublishError(f"can't write {path}: {error.strerror}") from error
    return path


def _reserve(path: Path) -> None:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise PublishError(f"{path} exists; choose another name or remove it") from None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder last through a loss of power, where the system can."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _rename_to_next_version(aside: Path, folder: Path) -> Path:
    version = _next_version(folder)
    while True:
        target = folder / str(version)
        try:
            return aside.rename(target)
        except OSError:
            # Another export took this number: a folder that is not empty is never replaced.
            if not target.exists():
                raise
            version += 1


def _next_version(folder: Path) -> int:
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    return max(taken, default=0) + 1

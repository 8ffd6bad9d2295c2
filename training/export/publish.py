"""Put a model file into the model repository in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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


def publish(model: bytes, repository: Path, name: str) -> Path:
    """Write a model as the next version of its name; an existing version is never touched.

    The version's folder appears complete or not at all: it is written aside, then renamed.

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
            with (aside / MODEL_FILE).open("wb") as file:
                file.write(model)
                file.flush()
                os.fsync(file.fileno())
            return _rename_to_next_version(aside, folder) / MODEL_FILE
    except OSError as error:
        raise PublishError(f"can't write into {folder}: {error.strerror}") from error


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

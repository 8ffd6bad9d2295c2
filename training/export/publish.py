"""Put a model file into the model repository in one step."""

from __future__ import annotations

import os
import re
from pathlib import Path

MODEL_FILE = "model.onnx"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class PublishError(Exception):
    """The name is not usable, or the folder can't be written."""


def check_name(name: str) -> None:
    """Refuse names that a URL or a file system would choke on.

    Raises:
        PublishError: Not 1 to 100 letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
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
    aside = folder / f".{os.getpid()}.tmp"
    try:
        aside.mkdir(parents=True)
        with (aside / MODEL_FILE).open("wb") as file:
            file.write(model)
            file.flush()
            os.fsync(file.fileno())
        version = _next_version(folder)
        while True:
            try:
                aside.rename(folder / str(version))
            except OSError:
                # Another export took this number: a non-empty folder is never replaced.
                if not (folder / str(version)).exists():
                    raise
                version += 1
            else:
                return folder / str(version) / MODEL_FILE
    except OSError as error:
        raise PublishError(f"can't write into {folder}: {error.strerror}") from error


def _next_version(folder: Path) -> int:
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    return max(taken, default=0) + 1

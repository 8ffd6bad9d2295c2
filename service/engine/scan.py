"""Find the versions in a model repository."""

from __future__ import annotations

import re
from pathlib import Path

from service.metadata import MODEL_FILE, MODEL_NAME

# A number in its one usual form, so that no two folders mean the same version.
_VERSION = re.compile(r"[1-9][0-9]{0,8}|0")


def scan(root: Path) -> tuple[list[tuple[str, int, Path]], set[Path], set[str]]:
    """Every ``<name>/<integer>/model.onnx`` under ``root``, sorted, and what is none of them.

    The third part names the models whose folders can't be read.
    """
    found: list[tuple[str, int, Path]] = []
    skipped: set[Path] = set()
    unreadable: set[str] = set()
    # iterdir raises where glob would find nothing: a folder that can't be read is not an empty one.
    for model in root.iterdir():
        if not model.is_dir():
            continue
        if not MODEL_NAME.fullmatch(model.name):
            skipped.add(model)
            continue
        try:
            folders = list(model.iterdir())
        except OSError:
            unreadable.add(model.name)
            continue
        for folder in folders:
            path = folder / MODEL_FILE
            if _VERSION.fullmatch(folder.name) and path.is_file():
                found.append((model.name, int(folder.name), path))
            elif folder.name.startswith("."):
                pass  # a version that is being written
            elif folder.is_dir() or _VERSION.fullmatch(folder.name):
                skipped.add(folder)
    return sorted(found), skipped | {root / name for name in unreadable}, unreadable

"""Find the versions in a model repository, or in a folder of one model."""

from __future__ import annotations

import re
from pathlib import Path

from service.metadata import MODEL_FILE, MODEL_NAME

# A number in its one usual form, so that no two folders mean the same version.
VERSION = re.compile(r"[1-9][0-9]{0,8}|0")
_ONLY_VERSION = 1  # of a model that lies there without a version


def scan(
    root: Path, model_name: str | None = None
) -> tuple[list[tuple[str, int, Path]], set[Path], set[str]]:
    """Every ``<name>/<integer>/model.onnx`` under ``root``, sorted, and what is none of them.

    Args:
        root: The folder.
        model_name: With it, ``<integer>/model.onnx`` and ``model.onnx`` (as version 1) right under
            ``root`` are found too, as versions of this model; and where there are none of these and
            a single model, that one goes by this name.

    Returns:
        Models, versions and files; paths that are none of them; the names of models whose folders
        can't be read.

    Raises:
        OSError: ``root`` can't be read.
    """
    found: dict[tuple[str, int], Path] = {}
    nameless: dict[int, Path] = {}
    skipped: set[Path] = set()
    unreadable: set[str] = set()
    # iterdir raises where glob would find nothing: a folder that can't be read is not an empty one.
    for model in root.iterdir():
        if model.name == MODEL_FILE and model.is_file():
            nameless.setdefault(_ONLY_VERSION, model)
            continue
        if not model.is_dir():
            continue
        if not MODEL_NAME.fullmatch(model.name):
            skipped.add(model)
            continue
        try:
            folders = list(model.iterdir())
        except OSError:
            unreadable.add(model.name)
            skipped.add(model)
            continue
        for folder in folders:
            path = folder / MODEL_FILE
            if VERSION.fullmatch(folder.name) and path.is_file():
                found[model.name, int(folder.name)] = path
            elif folder.name.startswith("."):
                pass  # a version that is being written
            elif folder.name == MODEL_FILE and VERSION.fullmatch(model.name):
                nameless[int(model.name)] = folder
            elif folder.is_dir() or VERSION.fullmatch(folder.name):
                skipped.add(folder)
    if model_name is None:
        skipped.update(nameless.values())
    else:
        found, unreadable = _named(model_name, found, nameless, unreadable)
    versions = sorted((name, number, path) for (name, number), path in found.items())
    return versions, skipped, unreadable


def _named(
    model_name: str,
    found: dict[tuple[str, int], Path],
    nameless: dict[int, Path],
    unreadable: set[str],
) -> tuple[dict[tuple[str, int], Path], set[str]]:
    """Give the name to what has none of its own, or else to the only model that there is."""
    names = {name for name, _ in found} | unreadable
    if not nameless and len(names) == 1:
        found = {(model_name, version): path for (_, version), path in found.items()}
        return found, {model_name for _ in unreadable}
    # A folder that can't be read may be one of its versions.
    ours = {model_name for name in unreadable if VERSION.fullmatch(name)}
    named = {(model_name, number): path for number, path in nameless.items()}
    return named | found, unreadable | ours

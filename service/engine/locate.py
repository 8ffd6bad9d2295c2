"""Find the model file that a person means."""

from __future__ import annotations

from pathlib import Path

from service.engine.errors import ModelNotFoundError
from service.metadata import MODEL_FILE, MODEL_NAME


def find_model_file(where: str, repository: Path) -> Path:
    """Find a model file.

    Args:
        where: An ONNX file, a version's folder, a model's folder, which means its highest version,
            or a name, ``name`` or ``name/version``, in the repository.
        repository: Folder of the model repository, for names.

    Raises:
        ModelNotFoundError: There is none.
    """
    places = [Path(where)]
    if all(MODEL_NAME.fullmatch(part) for part in where.split("/")):
        places.append(repository / where)
    for place in places:
        if place.is_file():
            return place
        if (place / MODEL_FILE).is_file():
            return place / MODEL_FILE
        versions = {
            int(file.parent.name): file
            for file in place.glob(f"*/{MODEL_FILE}")
            if file.parent.name.isdecimal()
        }
        if versions:
            return versions[max(versions)]
    names = sorted({file.parent.parent.name for file in repository.glob(f"*/*/{MODEL_FILE}")})
    raise ModelNotFoundError(
        f"There is no model at {where!r}.",
        hint="Give a file, a version's folder, a model's folder, or a name in"
        f" {repository}, which has: {', '.join(names) or 'none'}.",
    )

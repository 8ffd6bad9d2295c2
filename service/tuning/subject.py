"""Find out from the service which model is measured, and that it takes the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.picture_files import find_pictures
from service.tuning.measure import Bench, classify_path
from service.tuning.pictures import draw_pictures
from service.tuning.server import Running
from service.tuning.trials import Candidate

_CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        path: Where a picture is sent.
        pictures: That the model takes.
        gpu: It runs on one.
        model: Name, version, digest and execution provider, one line.
        pictures_text: What they are, one line.
    """

    path: str
    pictures: tuple[Path, ...]
    gpu: bool
    model: str
    pictures_text: str


def find_subject(
    bench: Bench, start: Candidate, model: str | None, images: Path | None, px: int | None
) -> Subject:
    """Start the service once and ask it.

    Args:
        bench: Starts it.
        start: With these settings.
        model: Name; None: the default model.
        images: Folder or file; None: they are drawn.
        px: Width and height of drawn ones; None: the model's.

    Raises:
        ValueError: There is no such model, or a picture is refused.
        ServerError: The service does not start.
    """
    with bench.serving(start) as server:
        name = model or bench.settings.default_model
        entry = _entry(server.ask_json("GET", "/v1/models")["models"], name)
        path = classify_path(entry["name"] if name else None)
        if images is not None:
            pictures, text = find_pictures(images), f"pictures from {images}"
        else:
            height, width = (px, px) if px else (entry["input"]["height"], entry["input"]["width"])
            pictures = draw_pictures(bench.folder, height, width)
            text = f"drawn JPEG pictures of {width} x {height} px"
        _check(server, path, pictures)
    version = entry["default_version"]
    digest = next(one["digest"] for one in entry["versions"] if one["version"] == version)
    provider = entry["execution_provider"]
    return Subject(
        path,
        tuple(path.resolve() for path in pictures),
        provider != _CPU,
        f"{entry['name']} version {version}, SHA-256 {digest}, on {provider}",
        f"{len(pictures)} {text}",
    )


def _entry(models: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any]:
    found = next((one for one in models if name is None or one["name"] == name), None)
    if found is None:
        known = ", ".join(one["name"] for one in models)
        raise ValueError(f"model: none is named {name!r}; there are {known}")
    if not found["ready"]:
        raise ValueError(f"model: {found['name']} is not ready")
    return found


def _check(server: Running, path: str, pictures: Sequence[Path]) -> None:
    for picture in pictures:
        try:
            server.ask_json("POST", path, picture.read_bytes())
        except ValueError as error:
            raise ValueError(f"images: {picture} is refused: {error}") from None

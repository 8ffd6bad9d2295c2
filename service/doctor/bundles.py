"""The models of a repository: whether each loads, runs where it should, and answers right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from service.doctor.findings import Finding
from service.engine.errors import ServiceError
from service.engine.filecheck import FileCheck, check_file
from service.engine.scan import scan


def examine_models(
    root: Path, model_name: str | None, default_model: str | None, device: str
) -> Iterator[Finding]:
    """Load every version, run it, and compare its answers on its golden images.

    Args:
        root: The model repository.
        model_name: Of a folder of one model; None: it is a folder of models.
        default_model: That has to be among them; None: any will do.
        device: Where they are to run.
    """
    try:
        found, skipped, unreadable = scan(root, model_name)
    except OSError as error:
        yield Finding(
            "model repository",
            "problem",
            f"{root} can't be read: {error.strerror}.",
            "Set --models to a folder with <name>/<version>/model.onnx.",
        )
        return
    if not found:
        yield Finding(
            "model repository",
            "problem",
            f"{root} has no <name>/<version>/model.onnx.",
            "Publish a model there with 'adaresnet publish' or 'adaresnet import', or set --models"
            " to another folder.",
        )
    else:
        names = sorted({name for name, _, _ in found})
        text = f"{root}: {len(names)} models, {len(found)} versions."
        yield Finding("model repository", "ok", text)
        if default_model is not None and default_model not in names:
            yield Finding(
                "default model",
                "problem",
                f"{default_model!r} is not there: the service would never be ready.",
                f"Set --default-model to one that is ({', '.join(names)}), or leave it out.",
            )
    for path in sorted(skipped):
        yield Finding(
            "model repository",
            "warning",
            f"{path} is no readable <name>/<version>/model.onnx and is passed over.",
            "Rename or remove it"
            + (", or check its permissions." if path.name in unreadable else "."),
        )
    for name, version, path in found:
        yield _examine(f"model {name}/{version}", path, device)


def _examine(about: str, path: Path, device: str) -> Finding:
    try:
        check = check_file(path, device)
    except ServiceError as error:
        return Finding(about, "problem", error.detail, error.hint)
    except OSError as error:
        return Finding(
            about,
            "problem",
            f"{path} can't be read: {error.strerror}.",
            "Check its permissions"
            + (f"; the user is {os.getuid()}." if hasattr(os, "getuid") else "."),
        )
    where = f"It runs on {check.provider}."
    if not check.pictures:
        return Finding(about, "ok", f"{where} No golden images: nothing proves what it answers.")
    if check.faults:
        return Finding(
            about,
            "problem",
            f"{where} {'; '.join(check.faults).capitalize()}.",
            "'adaresnet verify' shows every picture; copy or export the file again.",
        )
    return Finding(about, "ok", f"{where} {_passed(check)}")


def _passed(check: FileCheck) -> str:
    largest = max(picture.difference for picture in check.pictures)
    allowed = check.pictures[0].tolerance
    return (
        f"{len(check.pictures)} golden images pass, largest difference {largest:.2g} of"
        f" {allowed:.2g}."
    )

"""``adaresnet import``: put a foreign ONNX classifier into a repository, ready to be served."""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli import USAGE_ERROR, explain, fail
from service.settings import ENV_PREFIX

if TYPE_CHECKING:
    from service.engine.draft import Draft
    from service.engine.survey import Findings, Wishes

_PROGRAM = "adaresnet import"


def import_model(argv: list[str]) -> int:
    """Bring in any ONNX image classifier: find out how to serve it, and write that down."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except ModuleNotFoundError as error:
        return fail(_PROGRAM, f"{error.name} is missing: install adaresnet[cpu] or adaresnet[gpu]")
    except ValueError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    except Exception as error:  # one line for whatever keeps us from importing
        return fail(_PROGRAM, explain(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_PROGRAM, description=import_model.__doc__)
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the ONNX file; weights beside it are taken along")
    add("--name", required=True, help="name in the model repository")
    add(
        "--models",
        type=Path,
        default=Path(os.environ.get(ENV_PREFIX + "MODELS", "models")),
        help="model repository (default: models)",
    )
    add("--labels", type=Path, metavar="FILE", help="class names: one a line, or JSON")
    add("--description", help="what the model is, for GET /v1/models")
    pixels = parser.add_argument_group("what no graph says; assumed, and marked so, if not given")
    add = pixels.add_argument
    add("--mean", type=_numbers, metavar="R,G,B", help="one value a channel")
    add("--std", type=_numbers, metavar="R,G,B", help="one value a channel")
    add("--pixel-max", type=float, help="what white is before mean and std: 1 (default) or 255")
    add("--color", choices=("rgb", "bgr", "grey"), help="order of the channels (default: rgb)")
    add("--rule", choices=("center_crop", "stretch"), help="how other shapes are fitted")
    add("--filter", choices=("nearest", "bilinear", "bicubic", "lanczos"), help="of the resize")
    add("--crop", type=float, metavar="SHARE", help="of the sides that center_crop keeps; 0.875")
    graph = parser.add_argument_group("what is found out, unless the graph leaves it open")
    add = graph.add_argument
    add("--size", type=_size, metavar="N or HxW", help="pixels")
    add("--layout", choices=("NCHW", "NHWC"))
    add("--batch-size", type=int, help="pictures of every run")
    add("--output", metavar="NAME", help="the output that holds the classes")
    add("--kind", choices=("logits", "probabilities"), help="what that output gives")
    return parser


def _run(args: argparse.Namespace) -> int:
    from service.engine.draft import LABELS_FILE, Choices, draft_config
    from service.engine.packing import read_packed
    from service.engine.probe import Probe
    from service.engine.publish import check_name, publish
    from service.metadata import MODEL_FILE
    from service.model_config import CONFIG_FILE

    check_name(args.name)
    labels = _read_labels(args.labels) if args.labels else None
    model = read_packed(args.file)
    choices = Choices(**{field: getattr(args, field) for field in Choices.__dataclass_fields__})
    with tempfile.TemporaryDirectory() as temporary:
        aside, probe = Path(temporary) / MODEL_FILE, Probe()
        try:
            aside.write_bytes(model)
            found = probe.survey(aside, _wishes(args))
            names = labels or found.labels
            origin = f"from {args.labels.name!r}" if labels else f"from metadata {found.labels_key}"
            draft = draft_config(
                found, choices, hashlib.sha256(model).hexdigest(), origin if names else None
            )
            beside = {CONFIG_FILE: _heading(args, draft).encode()}
            if names:
                beside[LABELS_FILE] = ("\n".join(names) + "\n").encode()
            for file, content in beside.items():
                (aside.parent / file).write_bytes(content)
            probe.try_out(aside)
            answer = _classify_drawing(aside)
        finally:
            probe.close()
            probe.rest()
        path = publish(model, args.models, args.name, beside)
    print(_summary(path, found, draft, names, answer))
    return 0


def _wishes(args: argparse.Namespace) -> Wishes:
    from pydantic import ValidationError

    from service.engine.survey import Wishes

    height, width = args.size or (None, None)
    try:
        return Wishes(
            layout=args.layout,
            color=args.color,
            height=height,
            width=width,
            batch_size=args.batch_size,
            output=args.output,
            kind=args.kind,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{first['loc'][0]} is {first['input']}: {first['msg']}") from None


def _read_labels(path: Path) -> list[str]:
    from service.engine.label_names import parse_labels

    try:
        labels = parse_labels(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--labels {path} can't be read: {error}") from None
    if not labels:
        raise ValueError(f"--labels {path} has no labels: one a line, or a JSON list, is right")
    return labels


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return int(height), int(width or height)


def _heading(args: argparse.Namespace, draft: Draft) -> str:
    heading = f"Written by 'adaresnet import' for {args.file.name!r}."
    if draft.assumed:
        heading += (
            "\nNothing in a graph says what is marked ASSUMED. A wrong value costs accuracy without"
            "\nany error: compare it with how the network was trained, and correct it here. The"
            "\nservice reads the file again when it changes."
        )
    return draft.text(heading) + "\n"


def _classify_drawing(model: Path) -> str:
    """Run one drawn picture, as the service would; returns its most probable classes."""
    import numpy as np

    from service.engine.bundle import read_bundle
    from service.engine.decode import fit_image
    from service.engine.ranking import rank
    from service.engine.session import Session, SessionOptions, available_cpus

    bundle = read_bundle(model)
    session = Session(bundle.model, SessionOptions("cpu", available_cpus()), bundle.config)
    size, labels = session.metadata.input, session.metadata.labels
    across = np.linspace(0, 255, 320).astype(np.uint8)
    drawing = np.stack(np.broadcast_arrays(across, across[:240, None], across[::-1]), axis=-1)
    pixels = fit_image(drawing, size.height, size.width, size.resize)
    ranking = rank(session.run(pixels[None]).probabilities, 3)
    return ", ".join(
        f"{labels[index]} {probability:.1%}"
        for index, probability in zip(ranking.class_ids[0], ranking.probabilities[0], strict=True)
    )


def _summary(
    path: Path, found: Findings, draft: Draft, labels: list[str] | None, answer: str
) -> str:
    batch = f", {found.batch_size} at a time" if found.batch_size else ""
    named = f"named {labels[0]!r} to {labels[-1]!r}" if labels else "without names (see --labels)"
    lines = [
        f"wrote {path}",
        f"takes {found.layout} {found.datatype}, {found.channels} channels of {found.height} x"
        f" {found.width}{batch}, as {found.name!r}",
        f"gives {found.classes} classes, {named}, as {found.kind} in {found.output!r}",
        f"a drawn picture is {answer}",
    ]
    if draft.assumed:
        checks = ", ".join(f"{line.key} = {line.value}" for line in draft.assumed)
        lines.append(f"ASSUMED, check in {path.with_name('config.toml')}: {checks}")
    return "\n".join(lines)

"""``adaresnet verify``: does a model file answer here as it did where it was made?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.cli import fail
from service.commands.options import add_device, missing_runtime, repository_of

if TYPE_CHECKING:
    from service.engine.filecheck import FileCheck
    from service.engine.golden import GoldenOutcome

_PROGRAM = "adaresnet verify"
_DIGEST = {
    "matches": "matches: the file is as it was written",
    "differs": "DIFFERS: the file was changed after it was written",
    "absent": "not in the file; only newer exports have one",
}


def verify(argv: list[str]) -> int:
    """Replay a model's golden images on a device, and compare the file with its digest."""
    parser = argparse.ArgumentParser(_PROGRAM, description=verify.__doc__)
    parser.add_argument(
        "model", metavar="MODEL", help="file, version folder, model folder, or name in --models"
    )
    parser.add_argument("--models", type=Path, help="model repository, for names")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    if (line := missing_runtime()) is not None:
        return fail(_PROGRAM, line)

    from service.engine.errors import ServiceError
    from service.engine.filecheck import check_file
    from service.engine.locate import find_model_file

    try:
        found = check_file(find_model_file(args.model, repository_of(args.models)), args.device)
    except ServiceError as error:
        return fail(_PROGRAM, f"{args.model}: {error.detail} {error.hint}")
    print(json.dumps(_as_json(found), indent=2) if args.json else _report(found))
    return 1 if found.faults else 0


def _as_json(found: FileCheck) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "sha256": found.sha256,
        "digest": found.digest,
        "precision": found.precision,
        "execution_provider": found.provider,
        "golden_images": [asdict(p) | {"passed": p.passed} for p in found.pictures],
        "faults": found.faults,
    }


def _report(found: FileCheck) -> str:
    precision = f", {found.precision}" if found.precision else ""
    lines = [f"{found.path}{precision}, on {found.provider}", ""]
    if found.pictures:
        lines += [_table(found.pictures), ""]
    lines.append(f"digest: {_DIGEST[found.digest]}")
    if found.faults:
        lines += [f"FAILED: {fault}" for fault in found.faults]
    else:
        largest = max(picture.difference for picture in found.pictures)
        lines.append(
            f"passed: {len(found.pictures)} golden images, largest difference {largest:.3g},"
            f" allowed {found.pictures[0].tolerance:.3g}"
        )
    return "\n".join(lines)


def _table(pictures: list[GoldenOutcome]) -> str:
    rows = [("PICTURE", "TYPE", "BYTES", "DIFFERENCE", "ALLOWED", "EXPECTED", "FOUND", "")]
    rows += [
        (
            str(number),
            picture.media_type,
            str(picture.size_bytes),
            f"{picture.difference:.3g}",
            f"{picture.tolerance:.3g}",
            picture.expected,
            picture.found or f"({picture.error})",
            _verdict(picture),
        )
        for number, picture in enumerate(pictures, 1)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _verdict(picture: GoldenOutcome) -> str:
    if not picture.passed:
        return "FAILED"
    # Within what is allowed, two classes that are nearly as likely may change places.
    return "ok" if picture.found == picture.expected else "ok (near tie)"

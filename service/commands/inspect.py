"""``adaresnet inspect``: what a model file is, and how it was proved."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.cli import fail
from service.commands.options import missing_runtime, repository_of

if TYPE_CHECKING:
    from service.engine.inspection import FileDescription, Tensor
    from service.metadata import ModelMetadata, ShortcutScale, Verification

_PROGRAM = "adaresnet inspect"
_SHOWN_LABELS = 10
_DIGEST = {
    "matches": "matches, the file is as it was written",
    "differs": "DIFFERS, the file was changed after it was written",
    "absent": "none in the file",
}

Row = tuple[str, str]


def inspect(argv: list[str]) -> int:
    """Show what a model file is: classes, input, operators, learned scales, how it was proved."""
    parser = argparse.ArgumentParser(_PROGRAM, description=inspect.__doc__)
    parser.add_argument(
        "model", metavar="MODEL", help="file, version folder, model folder, or name in --models"
    )
    parser.add_argument("--models", type=Path, help="model repository, for names")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    if (line := missing_runtime()) is not None:
        return fail(_PROGRAM, line)

    from service.engine.errors import ServiceError
    from service.engine.inspection import describe_file
    from service.engine.locate import find_model_file

    try:
        found = describe_file(find_model_file(args.model, repository_of(args.models)))
    except ServiceError as error:
        return fail(_PROGRAM, f"{args.model}: {error.detail} {error.hint}")
    print(json.dumps(_as_json(found), indent=2) if args.json else _table(_rows(found)))
    return 0


def _as_json(found: FileDescription) -> dict[str, Any]:
    metadata = found.metadata
    told = None
    if metadata is not None:
        told = metadata.model_dump(mode="json", exclude_none=True)
        for image in told.get("golden", {}).get("images", ()):
            del image["data"]
    return {
        "path": str(found.path),
        "size_bytes": found.size_bytes,
        "sha256": found.sha256,
        "digest": found.digest,
        "producer": found.producer,
        "inputs": [vars(tensor) for tensor in found.inputs],
        "outputs": [vars(tensor) for tensor in found.outputs],
        "operators": list(found.operators),
        "metadata_from": "config.toml" if found.from_config else "file" if metadata else None,
        "metadata": told,
    }


def _rows(found: FileDescription) -> list[Row]:
    metadata = found.metadata
    rows = [
        ("file", f"{found.path}, {found.size_bytes / 1e6:.2f} MB"),
        ("sha256", found.sha256),
        ("digest", _DIGEST[found.digest]),
    ]
    if metadata is None:
        said = "no metadata of ours in the file, and no config.toml beside it; the graph itself:"
        return [*rows, ("", said), *_graph(found)]
    if found.from_config:
        rows.append(("", "no metadata of ours in the file; this is from the config.toml beside it"))
    rows += _identity(metadata)
    if metadata.verification is None:
        rows += _graph(found)
    else:
        rows += _operators(metadata.verification)
    if metadata.architecture is not None:
        rows += _scales(metadata.architecture.shortcut_scales)
    if metadata.verification is not None:
        rows += _proof(metadata.verification)
    return rows + _golden(metadata)


def _identity(metadata: ModelMetadata) -> list[Row]:
    size, labels = metadata.input, metadata.labels
    more = "" if len(labels) <= _SHOWN_LABELS else f" and {len(labels) - _SHOWN_LABELS} more"
    rows = [("description", metadata.description)] if metadata.description else []
    if (network := metadata.architecture) is not None:
        width = "" if network.width == 1 else f", width {network.width:g}"
        rows.append(("network", f"{network.network}{width}, {network.parameters:,} parameters"))
    rows += [
        ("precision", metadata.precision or "not stated (fp32 in older files)"),
        ("classes", f"{len(labels)}: {', '.join(labels[:_SHOWN_LABELS])}{more}"),
        (
            "input",
            f"RGB pixels, {size.datatype} [N, {size.height}, {size.width}, 3]; pictures of other"
            f" sizes: {size.resize.rule}, {size.resize.filter}",
        ),
    ]
    if (norm := metadata.normalization) is not None:
        mean, std = (", ".join(f"{v:.4g}" for v in part) for part in (norm.mean, norm.std))
        rows.append(("in the graph", f"{norm.color}, (pixel / 255 - [{mean}]) / [{std}]"))
    if (run := metadata.training) is not None:
        rows.append(
            (
                "training",
                f"{run.epochs} epochs on {run.data} ({run.train_images:,} images, digest"
                f" {run.data_digest}), seed {run.seed}, configuration {run.config_hash}",
            )
        )
    return rows


def _operators(verification: Verification) -> list[Row]:
    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    versions = ", ".join(f"{name} {value}" for name, value in verification.versions.items())
    return [
        ("operators", listed(verification.operators_after)),
        ("  plain twin", listed(verification.operators_plain_twin)),
        ("  PyTorch", listed(verification.operators_before)),
        ("written with", versions),
    ]


def _scales(scales: list[ShortcutScale]) -> list[Row]:
    rows = []
    for scale in scales:
        what = f"{scale.block}, {scale.shortcut}"
        if scale.placement == "branch":
            what += ", branch"
        if isinstance(scale.value, float):
            rows.append((f"{scale.value:+.4f}", what))
        else:
            low, high = min(scale.value), max(scale.value)
            rows.append((f"{low:+.4f} to {high:+.4f}", f"{what}, {len(scale.value)} channels"))
    width = max((len(value) for value, _ in rows), default=0)
    return [
        ("" if index else "learned scales", f"{value:<{width}}  {what}")
        for index, (value, what) in enumerate(rows)
    ]


def _proof(verification: Verification) -> list[Row]:
    span = verification.logit_range
    rows = [
        ("proved on", f"{verification.images:,} real images, beside PyTorch in float32"),
        (
            "  logits",
            f"differ by {verification.max_abs_difference:.3g} at most; allowed"
            f" {verification.tolerance * span:.3g} ({verification.tolerance:g} of their range"
            f" {span:.3g})",
        ),
        ("  first class", f"the same for {verification.top1_agreement:.2%}"),
    ]
    if verification.rounded_difference is not None:
        rows.append(
            (
                "  as a GPU rounds",
                f"logits differ by {verification.rounded_difference:.3g}, first class the same for"
                f" {verification.rounded_agreement or 0:.2%}",
            )
        )
    if verification.batch_difference is not None:
        rows.append(("  one by one", f"and in 64s: differ by {verification.batch_difference:.3g}"))
    if verification.calibration_images is not None:
        rows.append(("  calibrated", f"on {verification.calibration_images} training images"))
    if verification.forced is not None:
        rows.append(("  FORCED", verification.forced))
    return rows


def _golden(metadata: ModelMetadata) -> list[Row]:
    rows = []
    if (accuracy := metadata.accuracy) is not None:
        said = f"{accuracy.top1:.2%} of {accuracy.images:,} images ({accuracy.data},"
        said += f" {accuracy.split})"
        reference = metadata.verification and metadata.verification.reference_accuracy
        if reference is not None:
            said += f"; PyTorch in float32 {reference:.2%}"
        rows.append(("accuracy", said))
    if (golden := metadata.golden) is not None:
        kinds = sorted({image.media_type for image in golden.images})
        rows.append(
            (
                "golden images",
                f"{len(golden.images)} ({', '.join(kinds)}), logits may differ by"
                f" {golden.tolerance:.3g}; 'adaresnet verify' replays them",
            )
        )
    return rows


def _graph(found: FileDescription) -> list[Row]:
    def listed(tensors: tuple[Tensor, ...]) -> str:
        return "; ".join(f"{t.name} {t.datatype} [{', '.join(map(str, t.shape))}]" for t in tensors)

    return [
        ("producer", found.producer or "not stated"),
        ("inputs", listed(found.inputs)),
        ("outputs", listed(found.outputs)),
        ("operators", ", ".join(found.operators)),
    ]


def _table(rows: list[Row]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)

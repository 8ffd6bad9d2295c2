"""``adaresnet export``. Importing this file needs no torch; running the command does."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli import USAGE_ERROR, explain, fail
from service.environment import ENV_PREFIX
from training.commands.missing import missing

if TYPE_CHECKING:
    from service.metadata import ShortcutScale
    from training.export.pipeline import ExportResult

_PROGRAM = "adaresnet export"


def export(argv: list[str]) -> int:
    """Fold a trained network, prove it against PyTorch, and publish it."""
    args = _parser().parse_args(argv)
    if (args.name is None) is (args.out is None):
        return fail(_PROGRAM, "give --name to publish, or --out to write a file", USAGE_ERROR)
    if not 0 <= args.max_accuracy_loss <= 1:
        wrong = f"--max-accuracy-loss is {args.max_accuracy_loss:g}; it is a share, 0 to 1"
        return fail(_PROGRAM, wrong, USAGE_ERROR)
    if (line := missing("torch", "onnxruntime")) is not None:
        return fail(_PROGRAM, line)

    from service.engine.errors import ServiceError
    from service.engine.publish import PublishError
    from training.checkpoint import CheckpointError
    from training.data.dataset import DataError
    from training.errors import TrainingError
    from training.export.fold import FoldError
    from training.export.graph import GraphTooLargeError
    from training.export.pipeline import ExportRequest, export_checkpoint
    from training.export.verify import VerificationError

    expected = (
        CheckpointError,
        DataError,
        FoldError,
        GraphTooLargeError,
        PublishError,
        ServiceError,
        TrainingError,
        VerificationError,
    )
    names = ("checkpoint", "name", "data", "description", "precision", "force", "out")
    request = ExportRequest(
        repository=args.models,
        max_accuracy_loss=args.max_accuracy_loss,
        **{name: getattr(args, name) for name in names},
    )
    try:
        result = export_checkpoint(request, lambda line: print(line, file=sys.stderr))
    except expected as error:
        return fail(_PROGRAM, explain(error))
    print(
        result.metadata.model_dump_json(indent=2, exclude={"golden"})
        if args.json
        else _report(result)
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_PROGRAM, description=export.__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a training run")
    parser.add_argument("--name", help="publish as the next version of this name")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(os.environ.get(ENV_PREFIX + "MODELS", "models")),
        help="model repository (default: models)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write this file instead of publishing"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of weights and activations; int8 is calibrated on training images (default: fp32)",
    )
    parser.add_argument(
        "--max-accuracy-loss",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="largest loss against PyTorch in float32 that is written (default: 0.01)",
    )
    parser.add_argument(
        "--force", action="store_true", help="write fp16 and int8 that lose more, and say so inside"
    )
    parser.add_argument("--data", help="where the run's data is now; default: where it was")
    parser.add_argument("--description", default="", help="one line about the model")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    return parser


def _report(result: ExportResult) -> str:
    verification, accuracy = result.metadata.verification, result.metadata.accuracy
    architecture, golden = result.metadata.architecture, result.metadata.golden
    assert verification is not None
    assert accuracy is not None
    assert architecture is not None
    assert golden is not None
    lines = [
        f"wrote {result.path} ({result.path.stat().st_size / 1e6:.2f} MB,"
        f" {result.metadata.precision})",
        f"largest absolute difference to PyTorch: {verification.max_abs_difference:.3g} on"
        f" {verification.images} images (logits span {verification.logit_range:.3g})",
        f"top-1 agreement with PyTorch: {verification.top1_agreement:.2%}",
    ]
    if verification.rounded_difference is not None:
        lines.append(
            "with every activation rounded to float16, as a GPU does:"
            f" {verification.rounded_difference:.3g},"
            f" agreement {verification.rounded_agreement or 0:.2%}"
        )
    lines += [
        f"images one by one and 64 at a time differ by {verification.batch_difference or 0:.3g}",
        f"operators before: {_operators(verification.operators_before)}",
        f"operators after:  {_operators(verification.operators_after)}",
        f"plain ResNet has: {_operators(verification.operators_plain_twin)}",
        "  (the last two with Cast, Transpose and one Conv for plain pixels in, Softmax for"
        " probabilities out)",
        f"scales before folding: {', '.join(map(_scale, architecture.shortcut_scales))}",
        f"accuracy through ONNX Runtime: {accuracy.top1:.2%} of {accuracy.images} images"
        f" ({accuracy.data}, {accuracy.split}); PyTorch in float32:"
        f" {verification.reference_accuracy or 0:.2%}",
        f"golden images: {len(golden.images)}, logits may differ by {golden.tolerance:.3g}",
    ]
    if result.kept_muls:
        lines.append(
            "scales that do not fold, out of range or of both signs in one block, kept as Mul: "
            + ", ".join(result.kept_muls)
        )
    lines += _notes(result.metadata.precision, verification.forced)
    return "\n".join(lines)


def _notes(precision: str | None, forced: str | None) -> list[str]:
    notes = []
    if precision == "fp16":
        notes.append(
            "note: half the size, and meant for GPUs; on a CPU, ONNX Runtime computes in float32"
            " behind casts, no faster than fp32"
        )
    if precision == "int8":
        notes.append(
            "note: meant for CPUs with 8-bit dot products (AVX-512 VNNI, AVX-VNNI); elsewhere, and"
            " on CUDA, int8 is no faster than fp32: measure with 'adaresnet evaluate'"
        )
    if forced is not None:
        notes.append(f"FORCED: {forced}")
    return notes


def _scale(scale: ShortcutScale) -> str:
    where = "" if scale.placement == "shortcut" else " (branch)"
    if isinstance(scale.value, float):
        return f"{scale.block}{where} {scale.value:+.3f}"
    return (
        f"{scale.block}{where} {min(scale.value):+.3f} to {max(scale.value):+.3f}"
        f" in {len(scale.value)} channels"
    )


def _operators(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())

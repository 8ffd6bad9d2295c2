"""``adaresnet export``. Importing this file needs no torch; running the command does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli import fail
from training.commands.missing import missing

if TYPE_CHECKING:
    from service.metadata import ShortcutScale
    from training.export.pipeline import ExportResult

_PROGRAM = "adaresnet export"


def export(argv: list[str]) -> int:
    """Fold a trained network, prove it against PyTorch, and publish it."""
    parser = argparse.ArgumentParser(_PROGRAM, description=export.__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a training run")
    parser.add_argument("--name", required=True, help="name in the model repository")
    parser.add_argument("--models", type=Path, default=Path("models"), help="model repository")
    parser.add_argument("--data", help="where the run's data is now; default: where it was")
    parser.add_argument("--description", default="", help="one line about the model")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    args = parser.parse_args(argv)
    if (line := missing("torch", "onnxruntime")) is not None:
        return fail(_PROGRAM, line)

    from service.engine.errors import ServiceError
    from training.checkpoint import CheckpointError
    from training.data.dataset import DataError
    from training.errors import TrainingError
    from training.export.fold import FoldError
    from training.export.pipeline import ExportRequest, export_checkpoint
    from training.export.publish import PublishError
    from training.export.verify import VerificationError

    expected = (
        CheckpointError,
        DataError,
        FoldError,
        PublishError,
        ServiceError,
        TrainingError,
        VerificationError,
    )
    request = ExportRequest(args.checkpoint, args.name, args.models, args.data, args.description)
    try:
        result = export_checkpoint(request, lambda line: print(line, file=sys.stderr))
    except expected as error:
        return fail(_PROGRAM, str(error))
    print(
        result.metadata.model_dump_json(indent=2, exclude={"golden"})
        if args.json
        else _report(result)
    )
    return 0


def _report(result: ExportResult) -> str:
    verification, accuracy = result.metadata.verification, result.metadata.accuracy
    architecture = result.metadata.architecture
    assert verification is not None
    assert accuracy is not None
    assert architecture is not None
    lines = [
        f"wrote {result.path} ({result.path.stat().st_size / 1e6:.2f} MB)",
        f"largest absolute difference to PyTorch: {verification.max_abs_difference:.3g} on"
        f" {verification.images} images (logits span {verification.logit_range:.3g})",
        f"top-1 agreement with PyTorch: {verification.top1_agreement:.2%}",
        f"operators before: {_operators(verification.operators_before)}",
        f"operators after:  {_operators(verification.operators_after)}",
        f"plain ResNet has: {_operators(verification.operators_plain_twin)}",
        "  (the last two with Cast, Transpose and one Conv for plain pixels in, Softmax for"
        " probabilities out)",
        f"scales before folding: {', '.join(map(_scale, architecture.shortcut_scales))}",
        f"accuracy through ONNX Runtime: {accuracy.top1:.2%} of {accuracy.images} images"
        f" ({accuracy.data}, {accuracy.split})",
    ]
    if result.kept_muls:
        lines.append(
            "scales that do not fold, out of range or of both signs in one block, kept as Mul: "
            + ", ".join(result.kept_muls)
        )
    return "\n".join(lines)


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

"""Training commands. Importing this file needs no torch; running a command does."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli import USAGE_ERROR, fail

if TYPE_CHECKING:
    from training.export.pipeline import ExportResult

_MISSING = "PyTorch is missing: install adaresnet[train]"


def train(argv: list[str]) -> int:
    """Train an adaptive residual network on labelled images."""
    program = "adaresnet train"
    from pydantic import ValidationError

    from training.config import load_config

    recipe, rest = _split_recipe(argv, program)
    try:
        config = load_config(rest, recipe, program=program)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        return fail(program, f"--{name}: {first['msg']}", USAGE_ERROR)
    except ValueError as error:
        return fail(program, str(error), USAGE_ERROR)

    if importlib.util.find_spec("torch") is None:
        return fail(program, _MISSING)
    from tqdm import tqdm

    from training import loop
    from training.allocator import keep_freed_memory
    from training.checkpoint import CheckpointError, checkpoint_path
    from training.data.dataset import DataError

    keep_freed_memory()
    try:
        state = loop.fit(config, lambda line: tqdm.write(line, file=sys.stderr))
    except (loop.TrainingError, CheckpointError, DataError, OSError) as error:
        return fail(program, str(error))
    except KeyboardInterrupt:
        saved = checkpoint_path(config.out).is_file()
        hint = f"--resume goes on from the last epoch in {config.out}" if saved else "nothing saved"
        return fail(program, f"stopped; {hint}", 130)
    last = state.history[-1]
    print(f"test accuracy {last.test_accuracy:.2%} after {last.epoch} epochs; run in {config.out}")
    return 0


def export(argv: list[str]) -> int:
    """Fold a trained network, prove it against PyTorch, and publish it."""
    program = "adaresnet export"
    parser = argparse.ArgumentParser(program, description=export.__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a training run")
    parser.add_argument("--name", required=True, help="name in the model repository")
    parser.add_argument("--models", type=Path, default=Path("models"), help="model repository")
    parser.add_argument("--data", help="where the run's data is now; default: where it was")
    parser.add_argument("--description", default="", help="one line about the model")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        return fail(program, _MISSING)
    if importlib.util.find_spec("onnxruntime") is None:
        return fail(program, "ONNX Runtime is missing: install adaresnet[cpu] or adaresnet[gpu]")

    from service.engine.errors import ServiceError
    from training.checkpoint import CheckpointError
    from training.data.dataset import DataError
    from training.export.fold import FoldError
    from training.export.pipeline import ExportRequest, export_checkpoint
    from training.export.publish import PublishError
    from training.export.verify import VerificationError
    from training.loop import TrainingError

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
        return fail(program, str(error))
    print(
        result.metadata.model_dump_json(indent=2, exclude={"golden"})
        if args.json
        else _export_report(result)
    )
    return 0


def _split_recipe(argv: list[str], program: str) -> tuple[str | None, list[str]]:
    """Take --recipe out: it says where values come from, and is none itself."""
    parser = argparse.ArgumentParser(program, add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    args, rest = parser.parse_known_args(argv)
    if {"-h", "--help"} & set(rest):
        print("--recipe NAME|FILE  TOML file with values for the flags below\n")
    return args.recipe, rest


def _export_report(result: ExportResult) -> str:
    verification, accuracy = result.metadata.verification, result.metadata.accuracy
    architecture = result.metadata.architecture
    assert verification is not None
    assert accuracy is not None
    assert architecture is not None
    scales = ", ".join(f"{s.block} {s.value:+.3f}" for s in architecture.shortcut_scales)
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
        f"shortcut scales before folding: {scales}",
        f"accuracy through ONNX Runtime: {accuracy.top1:.2%} of {accuracy.images} images"
        f" ({accuracy.data}, {accuracy.split})",
    ]
    if result.kept_muls:
        lines.append(f"scales out of range, kept as Mul: {', '.join(result.kept_muls)}")
    return "\n".join(lines)


def _operators(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())

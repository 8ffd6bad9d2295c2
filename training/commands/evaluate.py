"""``adaresnet evaluate``: what a trained model is worth. Importing this needs no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli import USAGE_ERROR, fail
from training.commands.missing import missing

if TYPE_CHECKING:
    from training.report.evaluation import Evaluation, EvaluationRequest

_PROGRAM = "adaresnet evaluate"


def evaluate(argv: list[str]) -> int:
    """Measure accuracy, calibration and speed of a checkpoint or an ONNX file."""
    args = _parser().parse_args(argv)
    if args.batch_size < 1:
        return fail(_PROGRAM, f"--batch-size is {args.batch_size}; at least 1", USAGE_ERROR)
    if (line := missing("torch", "matplotlib", "onnxruntime")) is not None:
        return fail(_PROGRAM, line)

    from service.engine.errors import ServiceError
    from training.checkpoint import CheckpointError
    from training.data.dataset import DataError
    from training.errors import TrainingError
    from training.report.errors import ReportError
    from training.report.evaluation import EvaluationRequest, MissingDataError

    request = EvaluationRequest(args.model, args.data, args.split, args.device, args.batch_size)
    try:
        found = _evaluate(request, args.out)
    except MissingDataError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    except ServiceError as error:
        return fail(_PROGRAM, f"{args.model}: {error.detail} {error.hint}")
    except DataError as error:  # may list pictures, one a line
        return fail(_PROGRAM, str(error))
    except (CheckpointError, ReportError, TrainingError, OSError) as error:
        return fail(_PROGRAM, str(error).partition("\n")[0])
    except RuntimeError as error:  # PyTorch has no class for what a device refuses
        return fail(_PROGRAM, "PyTorch failed: " + str(error).partition("\n")[0])
    _print(found, as_json=args.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_PROGRAM, description=evaluate.__doc__)
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=Path,
        help="run folder, checkpoint, ONNX file, version folder, or a model's folder in a"
        " repository (its highest version)",
    )
    parser.add_argument(
        "--data", help="labelled pictures; default for a run: the data that it was trained on"
    )
    parser.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write confusion.png, calibration.png and evaluation.json there; default: write"
        " nothing",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--batch-size", type=int, default=128, metavar="N", help="images a step (default: 128)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    return parser


def _evaluate(request: EvaluationRequest, out: Path | None) -> Evaluation:
    from training.report.canvas import check_folder, save_figure
    from training.report.evaluation import evaluate_model
    from training.report.evaluation_pictures import draw_calibration, draw_confusion

    if out is not None:
        check_folder(out)
    found = evaluate_model(request, _say)
    if out is not None:
        title = f"{found.data}, {found.split}: top-1 accuracy {found.scores.top1:.2%}"
        save_figure(draw_confusion(found.scores, title), out / "confusion.png")
        save_figure(draw_calibration(found.scores, title), out / "calibration.png")
        (out / "evaluation.json").write_text(
            found.model_dump_json(indent=2) + "\n", encoding="utf-8"
        )
        _say(f"wrote confusion.png, calibration.png and evaluation.json into {out}")
    return found


def _print(found: Evaluation, *, as_json: bool) -> None:
    from training.report.evaluation_text import evaluation_report

    print(found.model_dump_json(indent=2) if as_json else evaluation_report(found))


def _say(line: str) -> None:
    print(line, file=sys.stderr)

"""``adaresnet weights``: what the learned scales became. Importing this needs no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli import USAGE_ERROR, fail
from training.commands.missing import missing

if TYPE_CHECKING:
    from training.report.weights import WeightsReport, WeightsRequest

_PROGRAM = "adaresnet weights"
_LEGEND = """\
START, END: the scale before training and now; with one a channel its mean, and MIN and MAX.
SKIP SHARE: rms(w S(x)) / (rms(w S(x)) + rms(v T(x))).
W/GAIN: w / (rms(y) / rms(x)) of identity shortcuts, what w is when every block keeps its rms."""


def weights(argv: list[str]) -> int:
    """Show and draw the learned scales of training runs, and the paper's tables of them."""
    args = _parser().parse_args(argv)
    if args.images < 0:
        return fail(_PROGRAM, f"--images is {args.images}; at least 0", USAGE_ERROR)
    if (line := missing("torch", "matplotlib")) is not None:
        return fail(_PROGRAM, line)

    from training.checkpoint import CheckpointError
    from training.errors import TrainingError
    from training.report.errors import ReportError
    from training.report.weights import WeightsRequest

    # The tables as text hold no skip shares: without a picture of them no data need be read.
    unseen = args.table and not args.json and args.out is None and len(args.runs) > 1
    images = 0 if unseen else args.images
    request = WeightsRequest(tuple(args.runs), args.data, images, args.table)
    try:
        found = _report(request, args.out)
    except (CheckpointError, ReportError, TrainingError, OSError) as error:
        return fail(_PROGRAM, str(error).partition("\n")[0])
    except RuntimeError as error:  # PyTorch has no class for what a device refuses
        return fail(_PROGRAM, "PyTorch failed: " + str(error).partition("\n")[0])
    _print(found, as_json=args.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_PROGRAM, description=weights.__doc__)
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="folder of a training run"
    )
    parser.add_argument(
        "--data", help="where the runs' data is now; default: where each run had it"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=1000,
        metavar="N",
        help="held-out images to measure skip shares on; 0 reads no data (default: 1000)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="draw weights.png and skip_share.png there; default: in the run's folder where there"
        " is one run, else nowhere",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="Tables I and II of the paper as Markdown, each run a round, sorted by data set",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    return parser


def _report(request: WeightsRequest, out: Path | None) -> WeightsReport:
    from training.checkpoint import checkpoint_path
    from training.report.canvas import check_folder, save_figure
    from training.report.weight_pictures import draw_shares, draw_weights
    from training.report.weights import report_weights

    if out is None and len(request.runs) == 1 and checkpoint_path(request.runs[0]).is_file():
        out = checkpoint_path(request.runs[0]).parent
    if out is not None:
        check_folder(out)
    found = report_weights(request, _say)
    if out is None:
        _say("nothing drawn: of several runs, --out says where to")
        return found
    save_figure(draw_weights(found.runs), out / "weights.png")
    _say(f"wrote {out / 'weights.png'}")
    if any(run.shares for run in found.runs):
        save_figure(draw_shares(found.runs), out / "skip_share.png")
        _say(f"wrote {out / 'skip_share.png'}")
    return found


def _print(found: WeightsReport, *, as_json: bool) -> None:
    from training.report.paper_tables import markdown
    from training.report.weights import weights_text

    if as_json:
        print(found.model_dump_json(indent=2))
        return
    if found.tables is not None:
        print(markdown(found.tables))
        return
    print("\n\n".join([*(weights_text(run) for run in found.runs), _LEGEND]))


def _say(line: str) -> None:
    print(line, file=sys.stderr)

"""``adaresnet networks``. Importing this file needs no torch; running the command does."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from service.cli import USAGE_ERROR, fail
from training.commands.missing import missing

if TYPE_CHECKING:
    from training.export.folding_table import FoldingRow

_PROGRAM = "adaresnet networks"
_VERIFIED = """\
Folded by 'adaresnet export', through ONNX Runtime, beside PyTorch: {images} test images of {data}.
Weights are random, batch norm statistics those of the images; scales are 1 to 1.1, some below 0,
on shortcuts, 0.1 to 0.9 on branches, 2 where fixed; the classifier is centred, so that many classes
win.
DIFFERENCE: largest of a logit, of the range of the logits. OPERATORS: against the plain twin.
"""
_HEADER = ("NETWORK", "GRANULARITY", "WIDTH", "DIFFERENCE", "SAME TOP-1", "CLASSES", "OPERATORS")
_ROW = "{:<18} {:<12} {:>5} {:>11} {:>13} {:>8}  {}"
_COLUMNS = ("name", "parameters", "macs", "blocks", "classes", "image_px", "source")


def networks(argv: list[str]) -> int:
    """List the networks: parameters, multiply-accumulates and blocks, as published."""
    parser = argparse.ArgumentParser(_PROGRAM, description=networks.__doc__)
    parser.add_argument("name", nargs="*", help="only these; wrn-22-2 and the like work as well")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="fold each at every granularity, with random weights, and compare on --data",
    )
    parser.add_argument("--data", help="labelled pictures, for --verify")
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="test images (default: 1000)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    if (line := missing("torch")) is not None:
        return fail(_PROGRAM, line)
    if args.verify:
        return _verify(args)
    from training.networks.registry import NETWORKS, describe_network

    try:
        rows = [describe_network(name) for name in args.name or NETWORKS]
    except ValueError as error:
        return fail(_PROGRAM, str(error))
    print(json.dumps(rows, indent=1) if args.json else _table(rows))
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Print a row a network and granularity as it is found; status 1 when one fails."""
    if args.data is None or args.images < 1:
        return fail(_PROGRAM, "--verify needs --data, and at least 1 of --images", USAGE_ERROR)
    if (line := missing("onnxruntime")) is not None:
        return fail(_PROGRAM, line)
    from dataclasses import asdict

    from service.metadata import Resize
    from training.data.dataset import DataError, load_data
    from training.export.folding_table import GRANULARITIES, check_network
    from training.networks.registry import NETWORKS, find_network

    names = args.name or list(NETWORKS)
    try:
        for name in names:
            find_network(name)
        test = load_data(args.data, None, Resize(), seed=0).test
    except (DataError, ValueError) as error:
        return fail(_PROGRAM, str(error))
    images = next(iter(test.chunks()))[: args.images].cpu()
    if not args.json:
        print(_VERIFIED.format(images=len(images), data=args.data))
        print(_ROW.format(*_HEADER).rstrip())
    found = []
    for name in names:
        for granularity in GRANULARITIES:
            row = check_network(name, granularity, images)
            found.append(row)
            if not args.json:
                print(_ROW.format(*_cells(row)).rstrip(), flush=True)
    failed = [row for row in found if not row.passed]
    if args.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    else:
        print(
            f"{len(found) - len(failed)} of {len(found)} passed; largest difference"
            f" {max(row.difference for row in found):.1e} of the logit range"
        )
    return 1 if failed else 0


def _cells(row: FoldingRow) -> tuple[str, ...]:
    return (
        row.network,
        row.granularity,
        f"{row.width:g}",
        f"{row.difference:.1e}",
        f"{row.same_first_class} of {row.images}",
        str(row.classes),
        row.operators + ("" if row.passed else "  FAILED"),
    )


def _table(rows: list[dict[str, str | int]]) -> str:
    cells = [list(_COLUMNS)] + [
        [f"{row[c]:,}" if isinstance(row[c], int) else str(row[c]) for c in _COLUMNS]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    aligned = [
        "  ".join(
            cell.ljust(width) if column in ("name", "source") else cell.rjust(width)
            for cell, width, column in zip(line, widths, _COLUMNS, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(
        [*aligned, "", "parameters and macs are of the plain network at the published classes"]
    )

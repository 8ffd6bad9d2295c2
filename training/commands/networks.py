"""``adaresnet networks``. Importing this file needs no torch; running the command does."""

from __future__ import annotations

import argparse
import json

from service.cli import fail
from training.commands.missing import missing

_PROGRAM = "adaresnet networks"
_COLUMNS = ("name", "parameters", "macs", "blocks", "classes", "image_px", "source")


def networks(argv: list[str]) -> int:
    """List the networks: parameters, multiply-accumulates and blocks, as published."""
    parser = argparse.ArgumentParser(_PROGRAM, description=networks.__doc__)
    parser.add_argument("name", nargs="*", help="only these; wrn-22-2 and the like work as well")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    if (line := missing("torch")) is not None:
        return fail(_PROGRAM, line)
    from training.networks.registry import NETWORKS, describe_network

    try:
        rows = [describe_network(name) for name in args.name or NETWORKS]
    except ValueError as error:
        return fail(_PROGRAM, str(error))
    print(json.dumps(rows, indent=1) if args.json else _table(rows))
    return 0


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

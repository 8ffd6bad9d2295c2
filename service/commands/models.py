"""``adaresnet models``: list what a repository or a server has."""

from __future__ import annotations

import argparse
import json
from typing import Any

from service.cli import explain, fail, missing_extra
from service.commands.options import (
    add_model_source,
    client_of,
    environment,
    local_settings,
    url_of,
)

_PROGRAM = "adaresnet models"


def models(argv: list[str]) -> int:
    """List models, their versions, accuracy and execution provider."""
    parser = argparse.ArgumentParser(_PROGRAM, description=models.__doc__)
    add_model_source(parser)
    parser.set_defaults(**environment())
    args = parser.parse_args(argv)
    try:
        url = url_of(args)
        rows = _from_server(args, url) if url else _from_repository(args)
    except ModuleNotFoundError as error:
        line = missing_extra(error, __name__)
        if line is None:
            raise
        return fail(_PROGRAM, f"{line}, or ask a server with --url")
    except Exception as error:  # one line for whatever keeps us from listing
        return fail(_PROGRAM, explain(error))
    print(json.dumps(rows, indent=2) if args.json else _table(rows))
    return 0


def _from_server(args: argparse.Namespace, url: str) -> list[dict[str, Any]]:
    with client_of(args, url) as client:
        return [dict(model.raw) for model in client.models()]


def _from_repository(args: argparse.Namespace) -> list[dict[str, Any]]:
    from service.api.app import engine_options
    from service.api.status import describe
    from service.engine.predictor import Predictor

    predictor = Predictor(engine_options(local_settings(args)))
    predictor.repository.refresh()
    predictor.close()
    catalog = predictor.repository.catalog
    return [
        describe(name, catalog[name]).model_dump(mode="json", exclude_none=True)
        for name in sorted(catalog)
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    header = ("MODEL", "VERSIONS", "READY", "CLASSES", "INPUT", "ACCURACY", "PROVIDER")
    lines = [header, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    versions = ", ".join(str(version["version"]) for version in row["versions"])
    if not row["ready"]:
        reasons = {version.get("error", "") for version in row["versions"]}
        return (row["name"], versions, "no: " + " ".join(sorted(reasons)), "", "", "", "")
    accuracy = row.get("accuracy")
    return (
        row["name"],
        versions,
        "yes",
        str(len(row["classes"])),
        f"{row['input']['height']} x {row['input']['width']}",
        f"{accuracy['top1']:.2%}" if accuracy else "",
        row["execution_provider"],
    )

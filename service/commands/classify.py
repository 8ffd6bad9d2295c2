"""``adaresnet classify``: name what is on pictures, here or on a server."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from service.cli import USAGE_ERROR, fail
from service.commands.options import add_model_source, environment, from_server, local_settings

_PROGRAM = "adaresnet classify"


def classify(argv: list[str]) -> int:
    """Classify image files, with the models here or those of a server."""
    parser = argparse.ArgumentParser(_PROGRAM, description=classify.__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, or - for standard input")
    parser.add_argument("--model", help="model name; default: the first")
    parser.add_argument("--version", type=int, help="model version; default: the highest")
    parser.add_argument("--top-k", type=int, default=5, help="classes an image (default: 5)")
    add_model_source(parser)
    parser.set_defaults(**environment("model", "version", "top_k"))
    args = parser.parse_args(argv)
    if args.top_k < 1:
        return fail(_PROGRAM, f"--top-k is {args.top_k}; it must be at least 1", USAGE_ERROR)
    try:
        images = [_read(name) for name in args.images]
        answer = _ask_server(args, images) if args.url else asyncio.run(_run_here(args, images))
    except ModuleNotFoundError as error:
        return fail(_PROGRAM, f"{error.name} is missing: install adaresnet[cpu] or adaresnet[gpu]")
    except Exception as error:  # one line for whatever keeps us from an answer
        hint = getattr(error, "hint", "")
        return fail(_PROGRAM, f"{error} {hint}".strip())
    for name, result in zip(args.images, answer["results"], strict=True):
        result["image"] = name
    print(json.dumps(answer, indent=2) if args.json else _table(answer["results"]))
    return 1 if any("error" in result for result in answer["results"]) else 0


def _read(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()


def _ask_server(args: argparse.Namespace, images: list[bytes]) -> dict[str, Any]:
    parameters = {"top_k": args.top_k, "on_error": "skip"}
    parameters |= {"model": args.model} if args.model else {}
    parameters |= {"version": args.version} if args.version is not None else {}
    files = [("images", (f"image{index}", data)) for index, data in enumerate(images)]
    return from_server("POST", args.url, "/v1/classify", params=parameters, files=files)


async def _run_here(args: argparse.Namespace, images: list[bytes]) -> dict[str, Any]:
    from service.api.answers import write_answer
    from service.api.app import engine_options
    from service.engine.predictor import Predictor

    predictor = Predictor(engine_options(local_settings(args)))
    predictor.repository.refresh()
    model = predictor.repository.find(args.model, args.version)
    outcome = await predictor.predict(model, images, args.top_k, skip_errors=True)
    predictor.close()
    answer: dict[str, Any] = json.loads(write_answer(model, outcome))
    return answer


def _table(results: list[dict[str, Any]]) -> str:
    lines = []
    for result in results:
        if "error" in result:
            lines.append(f"{result['image']}: {result['error']['detail']}")
            continue
        classes = ", ".join(
            f"{row['label']} {row['probability']:.1%}" for row in result["predictions"]
        )
        lines.append(f"{result['image']}: {classes}")
    return "\n".join(lines)

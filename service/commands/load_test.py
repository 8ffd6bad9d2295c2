"""``adaresnet load-test``: ask a server so much a second, and say how long its answers take."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import signal
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from service.cli import USAGE_ERROR, fail
from service.environment import ENV_PREFIX

if TYPE_CHECKING:
    from service.loadtest.measurement import Measurement
    from service.loadtest.report import Report
    from service.loadtest.target import Target

_PROGRAM = "adaresnet load-test"
_INTERRUPTED = 130
_RATE = 50.0
_MOST_CONNECTIONS, _MOST_RATE, _MOST_IMAGES, _MOST_S = 1000, 100_000, 1000, 24 * 3600
_LEAST_CHECK_S = 30.0  # a server has this long for what is asked before it is measured
_EPILOG = (
    "Requests are sent when they are due, whether or not those before were answered, and latency"
    " counts from then. Exit status: 0 all is well, 1 a condition of --fail-if held, no request"
    " was due at a rate, or the server can't be asked, 2 wrong usage, 130 interrupted."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


def load_test(argv: list[str]) -> int:
    """Send a server requests at a rate of your choice, and measure its latency."""
    from service.loadtest.target import TargetError, parse_target

    args = _parser().parse_args(argv)
    if (obstacle := _obstacle(args)) is not None:
        return fail(_PROGRAM, obstacle, USAGE_ERROR)
    try:
        target = parse_target(args.url, args.model, args.api_key)
        pictures = _own_pictures(args)
    except (ValueError, OSError) as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    # A script's stop ends it as Ctrl-C does, with what was measured so far.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return _load_test(args, target, pictures)
    except (TargetError, ValueError, OSError) as error:
        return fail(_PROGRAM, str(error))


def _parser() -> argparse.ArgumentParser:
    from service.loadtest.gates import parse_gate
    from service.loadtest.schedule import ARRIVALS
    from service.tuning.quantities import parse_duration

    parser = _Parser(_PROGRAM, description=load_test.__doc__, epilog=_EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("url", metavar="URL", help="of the server, like http://localhost:8000")
    add("--rate", type=_rates, default=[_RATE], help="requests a second, as 100,200 (default: 50)")
    add("--find-limit", action="store_true", help="find the highest rate that keeps --p99")
    add("--p99", type=parse_duration, metavar="DURATION", help="for --find-limit, like 50ms")
    add("--arrivals", choices=ARRIVALS, default="poisson", help="default: poisson")
    add("--duration", type=parse_duration, default=10.0, help="of each rate (default: 10s)")
    add("--warm-up", type=_warm_up, default=1.0, help="before, not counted (default: 1s)")
    add("--connections", type=_count, default=256, help="open at once at most (default: 256)")
    add("--timeout", type=parse_duration, default=10.0, help="of a request (default: 10s)")
    add("--model", metavar="NAME", help="that is asked; default: the server's default model")
    add("--images", type=Path, metavar="PATH", help="folder or file of pictures; default: drawn")
    add("--images-per-request", type=_count, default=1, metavar="N", help="default: 1")
    add("--api-key", help="bearer token; better in ADARESNET_API_KEY, which 'ps' doesn't show")
    add(
        "--fail-if",
        type=parse_gate,
        action="append",
        default=[],
        metavar="CONDITION",
        help="like 'p99>50ms', 'errors>1%%' or 'achieved<95%%'; may be repeated"
        " (default: errors>0%%, unless another on errors is given)",
    )
    add("--output", type=Path, metavar="FILE", help="write a report as JSON")
    add("--svg", type=Path, metavar="FILE", help="write a chart")
    add("--json", action="store_true", help="print the report instead of the table")
    parser.set_defaults(api_key=os.environ.get(ENV_PREFIX + "API_KEY"))
    return parser


def _rates(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0.1 <= value <= _MOST_RATE for value in found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of requests a second from 0.1 to {_MOST_RATE},"
            " or several with commas between"
        )
    return found


def _warm_up(text: str) -> float:
    from service.tuning.quantities import parse_duration

    return 0.0 if text in ("0", "0s") else parse_duration(text)


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return value


def _obstacle(args: argparse.Namespace) -> str | None:
    """Why there is no point in beginning."""
    if args.find_limit != (args.p99 is not None):
        return "--find-limit and --p99 go together; for a condition there is --fail-if 'p99>50ms'"
    if args.find_limit and len(args.rate) > 1:
        return "rate: --find-limit begins with one rate and finds the others"
    if args.connections > _MOST_CONNECTIONS:
        return f"connections: {args.connections} is more than {_MOST_CONNECTIONS}"
    if args.images_per_request > _MOST_IMAGES:
        return f"images-per-request: {args.images_per_request} is more than {_MOST_IMAGES}"
    for name in ("duration", "warm_up", "timeout"):
        if getattr(args, name) > _MOST_S:
            return f"{name.replace('_', '-')}: {getattr(args, name):g} s is more than a day"
    if args.images is not None and not args.images.exists():
        return f"images: {args.images} does not exist"
    for path in (args.output, args.svg):
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            return f"output: {path} can't be written"
    return None


def _own_pictures(args: argparse.Namespace) -> dict[str, bytes] | None:
    from service.loadtest.pictures import read_pictures

    return None if args.images is None else read_pictures(args.images)


def _load_test(args: argparse.Namespace, target: Target, pictures: dict[str, bytes] | None) -> int:
    from service.loadtest.pictures import draw_pictures
    from service.loadtest.target import check_pictures, find_subject

    check_s = max(_LEAST_CHECK_S, args.timeout)
    subject = find_subject(target, args.model, check_s)
    if pictures is None:
        pictures = draw_pictures(subject.height, subject.width)
        text = f"{len(pictures)} drawn JPEG pictures of {subject.width} x {subject.height} px"
    else:
        text = f"{len(pictures)} pictures from {args.images}"
    check_pictures(target, pictures, check_s)
    _tell(f"{subject.name} version {subject.version} at {target.url}; {text}")
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    report = _measure(args, target, list(pictures.values()))
    images = "1 image" if args.images_per_request == 1 else f"{args.images_per_request} images"
    report = replace(
        report,
        title=f"{subject.name} version {subject.version}: latency by rate of arrival",
        subtitle=f"{target.url}, {started}; {args.arrivals} arrivals, {args.duration:g} s a rate,"
        f" {images} a request",
        about={
            "url": target.url,
            "model": subject.name,
            "version": subject.version,
            "pictures": text,
            "images_per_request": args.images_per_request,
            "started": started,
            "adaresnet": metadata.version("adaresnet"),
        },
    )
    _write(args, report)
    if report.interrupted:
        return _INTERRUPTED
    return 1 if report.failures() else 0


def _measure(args: argparse.Namespace, target: Target, pictures: list[bytes]) -> Report:
    from service.loadtest.gates import NO_ERRORS
    from service.loadtest.measurement import Load
    from service.loadtest.open_loop import measure
    from service.loadtest.precise import event_loop
    from service.loadtest.report import Report, describe
    from service.loadtest.search import Goal, find_limit

    gates = [*args.fail_if]
    if not any(gate.metric == "errors" for gate in gates):
        gates.append(NO_ERRORS)
    errors = [gate.value for gate in gates if gate.metric == "errors"]
    goal = Goal(args.p99, min(errors)) if args.find_limit else None
    requests = target.requests(pictures, args.images_per_request)
    found: list[Measurement] = []
    limit, interrupted = None, False
    try:
        with asyncio.Runner(loop_factory=event_loop) as runner:

            def at(rate_per_s: float) -> Measurement:
                load = Load(
                    rate_per_s,
                    args.arrivals,
                    args.duration,
                    args.warm_up,
                    args.connections,
                    args.timeout,
                )
                found.append(runner.run(measure(target.address, load, requests)))
                _tell(describe(found[-1]))
                return found[-1]

            if goal is not None:
                limit = find_limit(at, args.rate[0], goal)
            else:
                for rate_per_s in args.rate:
                    if at(rate_per_s).interrupted:
                        break
    except KeyboardInterrupt:  # between two rates
        interrupted = True
    interrupted = interrupted or any(one.interrupted for one in found)
    return Report(args.images_per_request, found, gates, goal, limit, interrupted)


def _write(args: argparse.Namespace, report: Report) -> None:
    from service.loadtest.report import as_json, lines
    from service.loadtest.svg import draw

    document = json.dumps(as_json(report), indent=2)
    print(document if args.json else "\n".join(lines(report)))
    if args.output is not None:
        args.output.write_text(document + "\n", encoding="utf-8")
    if args.svg is not None:
        args.svg.write_text(draw(report), encoding="utf-8")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

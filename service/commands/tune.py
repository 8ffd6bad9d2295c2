"""``adaresnet tune``: measure which settings fit a latency and a memory limit, and write them."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from service.cli import USAGE_ERROR, fail
from service.commands.options import missing_runtime
from service.engine.devices import parse_devices
from service.settings import ENV_PREFIX, Settings, load_settings
from service.tuning.quantities import milliseconds, parse_duration, parse_size, rate
from service.tuning.trials import TUNED, Candidate, Level, Limits, Measured

if TYPE_CHECKING:
    from service.tuning.measure import Bench, Plan
    from service.tuning.search import Outcome
    from service.tuning.subject import Subject

_PROGRAM = "adaresnet tune"
_SECONDS = 2.5
_MAX_CONNECTIONS = 1000
_EPILOG = (
    "Every flag of 'adaresnet serve' is taken too, --models and --device among them, and holds for"
    " all that is tried; a setting that would be tuned is then kept as it is given."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


@dataclass(frozen=True)
class _Job:
    """What is to be done."""

    args: argparse.Namespace
    settings: Settings
    limits: Limits
    command: str


def tune(argv: list[str]) -> int:
    """Measure which settings fit --p99 and --memory, and write them to a file."""
    args, rest = _parser().parse_known_args(argv)
    try:
        settings = load_settings(rest, program=_PROGRAM)
    except ValueError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    if (obstacle := _obstacle(args, settings)) is not None:
        return fail(_PROGRAM, obstacle, USAGE_ERROR)
    if (line := missing_runtime()) is not None:
        return fail(_PROGRAM, line)

    from service.tuning.search import SearchError
    from service.tuning.server import ServerError

    # A service manager's stop ends the service that is measured, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limits = Limits(args.p99, args.memory)
    job = _Job(args, settings, limits, shlex.join(["adaresnet", "tune", *argv]))
    try:
        with tempfile.TemporaryDirectory(prefix="adaresnet-tune-") as folder:
            return _tune(job, Path(folder), _fixed(rest, settings))
    except ValueError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    except (SearchError, ServerError) as error:
        return fail(_PROGRAM, f"the service: {error}")
    except OSError as error:
        return fail(_PROGRAM, str(error))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(_PROGRAM, description=tune.__doc__, epilog=_EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("--p99", type=parse_duration, metavar="DURATION", help="like 20ms; default: no limit")
    add("--memory", type=parse_size, metavar="SIZE", help="like 200MiB, of all processes together")
    add("--model", metavar="NAME", help="that images are sent to; default: the default model")
    add("--images", type=Path, metavar="PATH", help="folder or file of pictures; default: drawn")
    add("--px", type=_count, help="width and height of drawn pictures; default: the model's")
    add("--connections", type=_count, default=32, help="images under way at once (default: 32)")
    add("--seconds", type=float, default=_SECONDS, help=f"of a measurement (default: {_SECONDS})")
    add("--output", type=Path, default=Path("adaresnet.toml"), metavar="FILE", help="to write")
    add("--force", action="store_true", help="write over a file that is there")
    add("--force-best", action="store_true", help="write the nearest when nothing fits")
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return value


def _obstacle(args: argparse.Namespace, settings: Settings) -> str | None:
    """Why there is no point in beginning."""
    if not 0.1 <= args.seconds <= 3600:
        return f"seconds: {args.seconds:g} is not from 0.1 to 3600"
    if args.connections > _MAX_CONNECTIONS:
        return f"connections: {args.connections} is more than {_MAX_CONNECTIONS}"
    if not settings.repository.is_dir():
        return f"models: {settings.repository} is no folder"
    if args.images is not None and not args.images.exists():
        return f"images: {args.images} does not exist"
    if args.output.exists() and not args.force:
        return f"output: {args.output} exists; --force writes over it"
    if not args.output.parent.is_dir() or not os.access(args.output.parent, os.W_OK):
        return f"output: {args.output.parent} is no folder to write in"
    if not Path("/proc/self/stat").exists():
        return "this system has no /proc, which says what processes use"
    return None


def _fixed(flags: list[str], settings: Settings) -> frozenset[str]:
    """Settings that are not tuned since somebody has set them, by flag or environment."""
    given = {flag.partition("=")[0].removeprefix("--").replace("-", "_") for flag in flags}
    if parse_devices(settings.device).each[0].kind == "tensorrt":
        given.add("max_batch_size")  # engines were built for one
    return frozenset(
        name for name in TUNED if name in given or ENV_PREFIX + name.upper() in os.environ
    )


def _tune(job: _Job, folder: Path, fixed: frozenset[str]) -> int:
    from service.engine.session import available_cpus
    from service.tuning.measure import Bench, Plan
    from service.tuning.search import Search
    from service.tuning.space import Machine, alternatives
    from service.tuning.subject import find_subject

    args, settings = job.args, job.settings
    start = Candidate(**{name: getattr(settings, name) for name in fixed})
    bench = Bench(settings, folder, _tell)
    subject = find_subject(bench, start, args.model, args.images, args.px)
    _tell(f"{subject.model}; {subject.pictures_text}")
    plan = Plan(subject.path, subject.pictures, args.connections, args.seconds)
    search = Search(lambda candidate: bench.measure(candidate, plan), job.limits, _tell_trial)
    machine = Machine(available_cpus(), gpu=subject.gpu)
    outcome = search.run(
        start,
        [name for name in TUNED if name not in fixed],
        lambda setting, incumbent: alternatives(setting, incumbent, machine),
    )
    fitting, load_line = None, ""
    if (limit_s := _to_search_load(outcome, job.limits)) is not None:
        fitting, load_line = _fitting_load(bench, plan, outcome, limit_s)
    best = outcome.best
    written = best.fits(job.limits) or (args.force_best and not best.failure)
    if written:
        args.output.write_text(_file(job, outcome, subject, machine.cpus))
    if args.json:
        _print_json(job, outcome, fitting, written=written)
    else:
        _print_table(job, outcome, load_line, written=written)
    return 0 if best.fits(job.limits) else 1


def _to_search_load(outcome: Outcome, limits: Limits) -> float | None:
    """The p99 that is missed, where fewer connections may keep it."""
    best = outcome.best
    missed = limits.p99_s is not None and not best.failure and best.p99_s > limits.p99_s
    return limits.p99_s if missed else None


def _fitting_load(
    bench: Bench, plan: Plan, outcome: Outcome, limit_s: float
) -> tuple[Level | None, str]:
    """The most connections with which p99 fits, and a line about it."""
    from service.tuning.measure import warm_up
    from service.tuning.search import fitting_load
    from service.tuning.server import ServerError

    candidate = outcome.best.candidate
    _tell(f"nothing fits; looking for the load at which {candidate} does")
    try:
        with bench.serving(candidate) as server:
            warm_up(server, plan)

            def measure(connections: int) -> Level:
                level = bench.levels(server, plan, connections)
                _tell(f"  {connections} connections: p99 {milliseconds(level.p99_s)}")
                return level

            found, _ = fitting_load(measure, plan.connections, limit_s)
    except ServerError as error:  # what was measured before shall not be lost for it
        return None, f"the load with which p99 fits is unknown: the service {error}"
    if found is None:
        return None, f"p99 is over {milliseconds(limit_s)} even with one connection"
    return found, (
        f"p99 keeps within {milliseconds(limit_s)} up to {found.connections} connections:"
        f" {rate(found.images_per_s)} images/s, p99 {milliseconds(found.p99_s)}"
    )


def _file(job: _Job, outcome: Outcome, subject: Subject, cpus: int) -> str:
    from service.tuning.machine import describe_machine, describe_versions
    from service.tuning.write import Circumstances, settings_file

    args = job.args
    lines = {
        "machine": describe_machine(cpus),
        "versions": describe_versions(),
        "model": subject.model,
        "load": f"{subject.pictures_text}, one a request; closed loop, {args.connections}"
        f" connections, {args.seconds:g} s a trial, from a client on the same CPUs",
    }
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return settings_file(job.settings, outcome, job.limits, Circumstances(job.command, date, lines))


def _print_json(job: _Job, outcome: Outcome, fitting: Level | None, *, written: bool) -> None:
    from service.tuning.report import as_json, level_as_json

    document: dict[str, Any] = as_json(outcome, job.limits)
    document["fitting_load"] = level_as_json(fitting) if fitting else None
    document["written"] = str(job.args.output) if written else None
    print(json.dumps(document, indent=2))


def _print_table(job: _Job, outcome: Outcome, load_line: str, *, written: bool) -> None:
    from service.tuning.report import describe, describe_gain, describe_others, misses, table

    best = outcome.best
    lines = [*table(outcome, job.limits), ""]
    if best.fits(job.limits):
        lines += [f"{best.candidate}: {describe(best)}", f"gained: {describe_gain(outcome)}"]
    else:
        missed = "; ".join(misses(best, job.limits))
        lines.append(f"nothing fits; nearest is {best.candidate}: {missed}")
        lines += [load_line] if load_line else []
    lines.append(f"meanwhile: {describe_others(outcome)}")
    nothing = "wrote nothing; --force-best writes the nearest"
    lines.append(f"wrote {job.args.output}" if written else nothing)
    print("\n".join(lines))


def _tell_trial(measured: Measured) -> None:
    from service.tuning.quantities import mebibytes

    trial = measured.trials[-1]
    if trial.failure:
        _tell(f"{measured.candidate}: failed: {trial.failure}")
        return
    level = trial.levels[0]
    _tell(
        f"{measured.candidate}: {rate(level.images_per_s)} images/s,"
        f" p99 {milliseconds(level.p99_s)}, {mebibytes(trial.rss_bytes)}"
    )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""Our service and seven others under the same load, and whether it reaches its goals.

    make benchmark                      # all of it, some forty minutes on two cores
    make benchmark ARGS=--quick         # a smoke run of some minutes; its figures mean nothing
    python benchmarks/serving.py --only adaresnet,fastapi --models resnet20
    python benchmarks/serving.py --variant "adaresnet, drafts=--jpeg-draft true"

Needs Linux, wrk, and Java 17 for TorchServe. Each peer gets an environment of its own below
runs/peers, made from benchmarks/peers/<peer>/requirements.txt on its first run; together they take
about 4 GB. A peer that can't be installed or started is reported as such and holds up nobody.
A whole run writes a section of docs/benchmarks.md, any other runs/benchmark/section.md, and both
every figure of every round to runs/benchmark/results.json. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from comparison import pictures
from comparison.bodies import RAW
from comparison.contenders import Contender, our_environment, ours, peers
from comparison.environments import environment, versions
from comparison.load import require_wrk
from comparison.machine import busy_cores, describe_machine, wrk_version
from comparison.networks import NETWORKS, Network, digest, write_network
from comparison.plan import Plan
from comparison.processes import ServerError
from comparison.report import put_section, write_section
from comparison.results import CEILINGS, Results
from comparison.stock import Stock, decode
from comparison.trial import Outcome, Subject, try_once

_ROOT = Path(__file__).parents[1]
_FOLDER = _ROOT / "runs" / "benchmark"
_ENVIRONMENTS = _ROOT / "runs" / "peers"
_DOCUMENT = _ROOT / "docs" / "benchmarks.md"
_SMALL_PX = 64
# Pictures, and how many of them give batch norm its statistics.
_SMALL, _LARGE = (256, 64), (128, 16)


@dataclass(frozen=True)
class Prepared:
    """A model with its file, pictures and answers."""

    network: Network
    model: Path
    stock: Stock


def main() -> int:
    """Run the comparison; returns the exit status."""
    args = _parse()
    wrk = require_wrk()
    # A service manager's stop ends servers and temporary folders like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = Plan(1 if args.quick else args.rounds, args.quick, args.seconds)
    results = Results()
    try:
        contenders = _chosen(args)
        prepared = [_prepare(one, args.data) for one in NETWORKS if one.name in args.models]
        results.about |= _about(args, wrk, prepared)
        print(f"{results.about['busy_cores']} cores are busy with other things; it ought to be 0")
        environments = _environments(contenders, results)
        started = datetime.datetime.now(datetime.UTC)
        for number in range(plan.rounds):
            for one in prepared:
                if plan.wants(one.network.name, number):
                    _turns(one, contenders, environments, plan, number, results)
    except KeyboardInterrupt:
        print("stopped; every server is ended", file=sys.stderr)
        return 130
    took = datetime.datetime.now(datetime.UTC) - started
    print(f"took {took.total_seconds() / 60:.1f} minutes")
    results.about["other_cores"] = _other_cores(results)
    results.write(_FOLDER / "results.json")
    section = write_section(results, contenders, plan)
    output = args.output or (_FOLDER / "section.md" if _partial(args) else _DOCUMENT)
    before = output.read_text() if output.exists() else ""
    output.write_text(put_section(before, section))
    print(f"wrote {output}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [one.name for one in NETWORKS]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="that a cell of singles takes")
    parser.add_argument("--quick", action="store_true", help="one round, a second a cell")
    parser.add_argument("--only", type=_names, help="servers, separated by commas")
    parser.add_argument("--models", type=_names, default=names, help=", ".join(names))
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=ARGUMENTS",
        help="another entry: our service with these arguments",
    )
    parser.add_argument("--data", help="CIFAR-10's pictures for the 32 px models: folder or name")
    parser.add_argument("--output", type=Path, help="Markdown file that gets the section")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _partial(args: argparse.Namespace) -> bool:
    return bool(args.quick or args.only or len(args.models) < len(NETWORKS))


def _chosen(args: argparse.Namespace) -> list[Contender]:
    variants = [text.partition("=") for text in args.variant]
    cores = len(os.sched_getaffinity(0))
    own = [ours("adaresnet", "")]
    if cores > 1:  # as the others are set that have workers
        own.append(ours(f"adaresnet, {cores} workers", f"--workers {cores}"))
    found = [*own, *(ours(name, more) for name, _, more in variants), *peers()]
    unknown = set(args.only or ()) - {one.name for one in found}
    if unknown:
        known = ", ".join(one.name for one in found)
        raise SystemExit(
            f"--only: nothing is named {', '.join(sorted(unknown))}; there are {known}"
        )
    return [one for one in found if not args.only or one.name in args.only]


def _prepare(network: Network, data: str | None) -> Prepared:
    print(f"preparing {network.name}", flush=True)
    small = network.px < _SMALL_PX
    count, samples = _SMALL if small else _LARGE
    files = pictures.cifar10(data, count) if data and small else pictures.draw(count, network.px)
    pixels = np.stack([decode(file, network.px) for file in files])
    model = write_network(network, _FOLDER / "models" / network.name, pixels[:samples])
    # Bodies of other pictures must not be taken for these.
    bodies = _FOLDER / "bodies" / network.name
    shutil.rmtree(bodies, ignore_errors=True)
    stock = Stock(bodies, files, pixels)
    stock.answer_with(model)
    return Prepared(network, model, stock)


def _about(args: argparse.Namespace, wrk: str, prepared: list[Prepared]) -> dict[str, object]:
    return {
        "command": shlex.join(["python", "benchmarks/serving.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": describe_machine(),
        "wrk": wrk_version(wrk),
        "pictures": "CIFAR-10's, and drawn ones for 224 px" if args.data else "drawn from a seed",
        "busy_cores": f"{busy_cores():.2f}",
        "models": {one.network.name: digest(one.model) for one in prepared},
        "versions": {},
        "best": {},
    }


def _environments(contenders: list[Contender], results: Results) -> dict[str, Path]:
    """The environment of each server that could be installed."""
    found = {}
    known = results.about["versions"]
    assert isinstance(known, dict)
    for one in contenders:
        try:
            folder = environment(one.peer, _ENVIRONMENTS) if one.peer else our_environment()
            known[one.name] = versions(folder, one.packages)
            found[one.name] = folder
        except (ServerError, OSError, subprocess.CalledProcessError) as error:
            print(f"{one.name}: {error}", flush=True)
            results.add(0, NETWORKS[0].name, one.name, Outcome(failures={"server": str(error)}))
    return found


def _turns(
    one: Prepared,
    contenders: list[Contender],
    environments: dict[str, Path],
    plan: Plan,
    number: int,
    results: Results,
) -> None:
    """One round of one model: the ceilings, then every server."""
    name = one.network.name
    results.add(number, name, CEILINGS, _ceilings(one, plan, results))
    cells = plan.cells(name)
    # Everyone is first once in a while: the order turns by one each round.
    turn = number % max(1, len(contenders))
    for contender in [*contenders[turn:], *contenders[:turn]]:
        if contender.name not in environments:
            continue
        subject = Subject(
            contender, environments[contender.name], one.network, one.model, one.stock
        )
        began = time.perf_counter()
        outcome = try_once(subject, cells)
        results.add(number, name, contender.name, outcome)
        results.write(_FOLDER / "results.json")
        took = time.perf_counter() - began
        print(f"round {number + 1}, {name}, {contender.name}, {took:.0f} s: {_brief(outcome)}")
        sys.stdout.flush()


def _brief(outcome: Outcome) -> str:
    """One line of an outcome, for whoever watches."""
    rates = [
        f"{figure.removesuffix(' rate')}: {value:.0f}"
        for figure, value in outcome.figures.items()
        if figure.endswith(" rate")
    ]
    return "; ".join([*rates, *(f"{what}: {why}" for what, why in outcome.failures.items())])


def _ceilings(one: Prepared, plan: Plan, results: Results) -> Outcome:
    files = one.stock.bodies(RAW, 1)
    command = [sys.executable, "-m", "comparison.ceilings", str(one.model), str(plan.ceiling_s)]
    done = subprocess.run(
        [*command, *map(str, files)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return Outcome(failures={"server": done.stderr.strip()[-300:]})
    found = json.loads(done.stdout)
    best = results.about["best"]
    assert isinstance(best, dict)
    best[one.network.name] = found["best"]
    return Outcome(figures=found["figures"])


def _other_cores(results: Results) -> str:
    values = [
        value
        for each in results.rounds
        for outcomes in each.values()
        for outcome in outcomes.values()
        for figure, value in outcome.figures.items()
        if figure.endswith(" other_cores")
    ]
    return f"{statistics.median(values):.2f}" if values else "an unknown number of"


if __name__ == "__main__":
    sys.exit(main())

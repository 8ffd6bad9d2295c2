"""Prove that the service withstands what comes over the network and what goes wrong around it.

    python -m tests.resilience                    # everything, some ten minutes
    python -m tests.resilience --quick            # the same with fewer rounds
    python -m tests.resilience --only swaps,clock
    python -m tests.resilience --list

Prints a table and ends with status 1 unless all is well. Needs Linux; what a machine can't have is
skipped with the reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.resilience.bench import Bench, Fault, NotHereError, free_port, traces
from tests.resilience.faults import EVERY
from tests.resilience.ledger import Ledger
from tests.resilience.repository import Repository
from tests.resilience.service import serving

if TYPE_CHECKING:
    from tests.resilience.hostile import HostileReport

_HOSTILE = "hostile"
_SHOWN = 5  # traces of the log
_HEADS = ("", "inputs", "good sent", "right", "refused", "cut", "lost", "wrong", "5xx", "MiB", "s")


@dataclass
class Row:
    """What came of one fault, or of the hostile inputs."""

    what: str
    ledger: Ledger = field(default_factory=Ledger)
    inputs: int = 0
    faults: int = 0
    server_errors: int = 0
    growth_mib: float = 0.0
    took_s: float = 0.0
    complaints: list[str] = field(default_factory=list)
    skipped: str = ""

    def cells(self) -> list[str]:
        """For the table."""
        found = self.ledger
        return [
            self.what,
            str(self.inputs or ""),
            str(found.sent),
            str(found.right),
            str(found.refused.total() + found.not_taken),
            str(found.cut),
            str(len(found.lost)),
            str(len(found.wrong)),
            str(self.server_errors),
            f"{self.growth_mib:+.0f}",
            f"{self.took_s:.0f}",
        ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything that is asked for; returns 0 where all is well."""
    args = _parse(argv)
    if args.list:
        for fault in EVERY:
            print(f"{fault.name:<24}{fault.what}")
        return 0
    rows: list[Row] = []
    if not args.only or _HOSTILE in args.only:
        rows.append(_told(_try_hostile()))
    wanted = [fault for fault in EVERY if not args.only or fault.name in args.only]
    rows += [_told(inject(fault, reduced=args.quick)) for fault in wanted]
    return _report(rows)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.resilience",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAMES")
    parser.add_argument("--list", action="store_true", help="list the faults")
    args = parser.parse_args(argv)
    unknown = set(args.only) - {fault.name for fault in EVERY} - {_HOSTILE}
    if unknown:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; --list names all")
    return args


def inject(fault: Fault, *, reduced: bool) -> Row:
    """Inject one fault into a service of its own, and account for it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="adaresnet-fault-") as folder:
        bench = Bench(Path(folder), reduced)
        row = Row(fault.what, bench.ledger, faults=1)
        try:
            fault.inject(bench)
        except NotHereError as reason:
            row.skipped = str(reason)
        except Exception as error:
            row.complaints.append(f"{type(error).__name__}: {error}")
        row.complaints += bench.complaints()
    row.growth_mib, row.took_s = bench.growth_mib, time.monotonic() - began
    row.server_errors = len(bench.ledger.server_errors)
    return row


def _try_hostile() -> Row:
    from tests.resilience.hostile import run_hostile

    began, ledger = time.monotonic(), Ledger()
    with tempfile.TemporaryDirectory(prefix="adaresnet-hostile-") as name:
        repository = Repository(Path(name) / "models")
        repository.publish(1, "1.0")
        with serving(repository.root, Path(name), port=free_port()) as service:
            report = run_hostile(service, ledger)
        row = judge_hostile(report, ledger, service.text())
    row.took_s = time.monotonic() - began
    return row


def judge_hostile(report: HostileReport, ledger: Ledger, log: str) -> Row:
    """Account for the hostile inputs, for the good requests meanwhile, and for the log."""
    row = Row("hostile inputs", ledger, inputs=report.inputs)
    row.growth_mib, row.server_errors = report.rss_growth_mib, report.server_errors
    row.complaints = [*report.failures, *ledger.complaints(), *traces(log)[:_SHOWN]]
    return row


def _told(row: Row) -> Row:
    verdict = "well" if not row.complaints else "NOT WELL"
    print(f"{row.what}: {f'skipped, {row.skipped}' if row.skipped else verdict}", flush=True)
    for complaint in row.complaints:
        print(f"    {complaint}", flush=True)
    return row


def _report(rows: list[Row]) -> int:
    done = [row for row in rows if not row.skipped]
    table = [list(_HEADS), *(row.cells() for row in done)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print()
    for line in table:
        first, *others = (
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join((first, *others)))
    for row in rows:
        if row.skipped:
            print(f"{row.what}: skipped, {row.skipped}")
    lost, wrong = (
        sum(len(getattr(row.ledger, name)) for row in done) for name in ("lost", "wrong")
    )
    growth_mib = max((row.growth_mib for row in done), default=0.0)
    print(
        f"\ninputs tried {sum(row.inputs for row in done)},"
        f" faults injected {sum(row.faults for row in done)},"
        f" good requests sent {sum(row.ledger.sent for row in done)},"
        f" lost {lost}, wrong {wrong},"
        f" 5xx other than 503 and 504 that say so {sum(row.server_errors for row in done)},"
        f" most growth of resident memory {growth_mib:+.0f} MiB"
    )
    well = not any(row.complaints for row in rows)
    print("all is well" if well else "NOT all is well, see above")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())

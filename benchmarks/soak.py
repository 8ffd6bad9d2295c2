"""Everything at once for long: does the service keep its memory, its files, its threads, its pace?

    python benchmarks/soak.py                        # ten minutes
    python benchmarks/soak.py --minutes 60 --workers 2
    python benchmarks/soak.py --publish              # write the table into docs/resilience.md, too

Needs Linux and the development environment. Clients send single images, many as an array, many with
an answer in lines, requests with tiny deadlines, bad ones, a sample of the hostile inputs, and hang
up; the version that answers is swapped all the time, and in the first third all workers are
replaced (SIGHUP). Every good request is accounted for; a swap counts when it has answered, and a
replacement when the workers are others. Writes samples, a table and a drawing to runs/soak/.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from comparison.machine import describe_machine
from soak_chart import Chart, Line, Panel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the clients and the accounts are those of the tests

from tests.resilience.bench import free_port  # noqa: E402
from tests.resilience.ledger import Ledger  # noqa: E402
from tests.resilience.repository import Repository  # noqa: E402
from tests.resilience.rough import Rough  # noqa: E402
from tests.resilience.service import Service, serving, wait_until  # noqa: E402
from tests.resilience.traffic import Request, Traffic, lines, many, single  # noqa: E402

_MAKERS = (single, single, single, single, many, lines)
_SAMPLE_S = 1.0
_WINDOW_S = 5.0  # of a percentile
_SETTLE = 0.1  # of the time, before anything is compared
_SEEN_S = 60.0  # a file that was put there answers by then, while everything else goes on
_FLAT, _STEADY_P50, _STEADY_P99 = 10.0, 50.0, 100.0  # per cent
_MORE_FILES, _MORE_THREADS = 16, 24
_BEGIN, _END = "<!-- soak: begin -->", "<!-- soak: end -->"


@dataclass(frozen=True)
class Sample:
    """What the service held at a moment."""

    at_s: float
    rss_mib: float
    files: float
    threads: float


@dataclass
class Soak:
    """A run under way.

    Attributes:
        began_s: When.
        samples: Of what is held.
        took: When a single image was answered, and after how long; seconds.
        published: Files that were put in the place of others.
        swaps: Those of them that have answered.
        planned: How often all workers are to be replaced.
        replaced_s: When all that had been told to go were gone, and as many others there.
        missed: Changes that have not come about.
    """

    began_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    took: list[tuple[float, float]] = field(default_factory=list)
    published: int = 0
    swaps: int = 0
    planned: int = 0
    replaced_s: list[float] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    _leaving: set[int] = field(default_factory=set)

    def passed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began_s

    def note(self, request: Request, took_s: float) -> None:
        """A good request was answered."""
        if len(request.identities) == 1:
            self.took.append((self.passed_s(), took_s))

    def sample(self, service: Service) -> None:
        """Look at the service."""
        held = service.held()
        self.samples.append(Sample(self.passed_s(), held.rss_mib, held.files, held.threads))

    def swap(
        self, repository: Repository, is_seen: Callable[[str], bool], patience_s: float = _SEEN_S
    ) -> None:
        """Replace the version that answers, and wait until it is seen: none may be passed over."""
        self.published += 1
        tag = f"2.{self.published}"
        try:
            repository.publish(2, tag)
            wait_until(lambda: is_seen(tag), f"an answer of {tag}", patience_s)
        except (AssertionError, OSError) as error:
            self.missed.append(str(error))
        else:
            self.swaps += 1

    def replace(self, service: Service) -> None:
        """Tell all workers to go, and others to come."""
        self._leaving = set(service.serving_pids)
        service.process.send_signal(signal.SIGHUP)

    def is_replacing(self, service: Service) -> bool:
        """Whether somebody who was told to go is still there, or not all others are."""
        if self._leaving:
            now = set(service.serving_pids)
            if self._leaving & now or len(now) < service.workers:
                return True
            self._leaving = set()
            self.replaced_s.append(self.passed_s())
        return False

    def changes(self, status: int, traces: int) -> Row:
        """What was changed meanwhile, and how the service ended."""
        return Row(
            "changes meanwhile",
            f"{self.swaps} of {self.published} swaps seen in answers,"
            f" {len(self.replaced_s)} of {self.planned} replacements of all workers",
            "all of them, status 0 at the end, no trace in the log",
            self.swaps == self.published
            and len(self.replaced_s) == self.planned
            and status == 0
            and not traces,
        )

    def percentiles(self, share: float) -> list[tuple[float, float]]:
        """A percentile of each few seconds: seconds since the beginning, milliseconds."""
        found, took = [], sorted(self.took)
        times = [at_s for at_s, _ in took]
        at_s = 0.0
        while times and at_s < times[-1]:
            part = took[bisect.bisect(times, at_s) : bisect.bisect(times, at_s + _WINDOW_S)]
            if part:
                value = float(np.quantile([each for _, each in part], share))
                found.append((min(at_s + _WINDOW_S / 2, times[-1]), value * 1e3))
            at_s += _WINDOW_S
        return found


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    goal: str
    reached: bool

    def write(self) -> str:
        """As Markdown."""
        return (
            f"| {self.what} | {self.measured} | {self.goal} | {'yes' if self.reached else 'no'} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, and print a table; returns 1 where a goal was missed."""
    args = _parse(argv)
    ledger, soak = Ledger(), Soak()
    with tempfile.TemporaryDirectory(prefix="adaresnet-soak-") as name:
        repository = Repository(Path(name) / "models")
        repository.publish(1, "1.0")
        flags = ("--repository-poll-s", "0.2", *args.serve)
        with serving(
            repository.root, Path(name), *flags, port=free_port(), workers=args.workers
        ) as service:
            rough = Rough(service.port)
            _run(args, service, repository, ledger, soak, rough)
            status = service.stop()
        traces = service.text().count("Traceback")
    rows = _judge(args, soak, ledger, rough, status, traces)
    table = _table(args, rows)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(table)
    (args.out / "soak.svg").write_text(_chart(args, soak).svg())
    with (args.out / "samples.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("seconds", "rss_mib", "files", "threads"))
        writer.writerows(
            (f"{one.at_s:.1f}", f"{one.rss_mib:.1f}", one.files, one.threads)
            for one in soak.samples
        )
    print(f"\n{table}\n{args.out / 'soak.svg'} shows it over time")
    for complaint in (*ledger.complaints(), *rough.failures[:5], *soak.missed[:5]):
        print(complaint)
    if args.publish:
        _publish(table, _chart(args, soak).svg())
    return int(not all(row.reached for row in rows))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=10.0)
    add("--workers", type=int, default=2, help="0: one process, which can't be replaced")
    add("--swap-s", type=float, default=10.0, help="seconds from one swap to the next")
    add("--replacements", type=int, default=4, help="of all workers, in the first third")
    add("--out", type=Path, default=ROOT / "runs" / "soak")
    add("--publish", action="store_true", help="write the table into docs/resilience.md")
    add("serve", nargs="*", help="arguments of 'adaresnet serve', behind --")
    return parser.parse_args(argv)


def _run(
    args: argparse.Namespace,
    service: Service,
    repository: Repository,
    ledger: Ledger,
    soak: Soak,
    rough: Rough,
) -> None:
    seconds = args.minutes * 60
    count = soak.planned = args.replacements if args.workers else 0
    # A new worker takes some minutes to have had everything once; then its memory is compared.
    to_replace = [seconds / 3 * (number + 1) / (count + 1) for number in range(count)]
    traffic = Traffic(
        service.port, ledger, makers=_MAKERS, digests=repository.digests, told=soak.note
    )
    ended = threading.Event()

    def swap() -> None:
        while not ended.wait(args.swap_s):
            soak.swap(repository, traffic.tags.__contains__)

    swapping = threading.Thread(target=swap)
    with traffic, rough:
        soak.began_s = time.monotonic()
        swapping.start()
        try:
            while soak.passed_s() < seconds:
                soak.sample(service)
                service.check_alive()
                replacing = soak.is_replacing(service)
                if to_replace and not replacing and soak.passed_s() > to_replace[0]:
                    to_replace.pop(0)
                    soak.replace(service)
                if len(soak.samples) % 30 == 0:
                    print(
                        f"{soak.passed_s() / 60:5.1f} min: {ledger.right} right answers,"
                        f" {rough.sent} rough clients, {soak.swaps} swaps,"
                        f" {soak.samples[-1].rss_mib:.0f} MiB",
                        flush=True,
                    )
                time.sleep(_SAMPLE_S)
        finally:
            ended.set()
            swapping.join()


def _judge(
    args: argparse.Namespace, soak: Soak, ledger: Ledger, rough: Rough, status: int, traces: int
) -> list[Row]:
    bad = len(ledger.lost), len(ledger.wrong), len(ledger.server_errors)
    half_s = args.minutes * 30
    # No worker is replaced any more then, so what grows has nowhere to hide.
    after = [one for one in soak.samples if one.at_s > half_s * (1 + _SETTLE)]
    rows = [
        Row(
            "good requests",
            f"{ledger.sent} sent, {bad[0]} lost, {bad[1]} wrong, {bad[2]} with another 5xx,"
            f" {ledger.refused.total()} refused",
            "none lost, wrong or failed",
            not any(bad) and ledger.ended == ledger.sent,
        ),
        Row(
            "rough clients",
            f"{rough.describe()}; {len(rough.failures)} failures",
            "no failure",
            not rough.failures,
        ),
        soak.changes(status, traces),
    ]
    early_mib, late_mib = _ends([one.rss_mib for one in after])
    drift = _per_cent(early_mib, late_mib)
    rows.append(
        Row(
            "resident memory, second half",
            f"{early_mib:.0f} to {late_mib:.0f} MiB, {drift:+.1f} %",
            f"within {_FLAT:.0f} %",
            drift <= _FLAT,
        )
    )
    for what, values, allowed in (
        ("open files, second half", [one.files for one in after], _MORE_FILES),
        ("threads, second half", [one.threads for one in after], _MORE_THREADS),
    ):
        early, late = _ends(values)
        rows.append(
            Row(
                what,
                f"{early:.0f} to {late:.0f}",
                f"at most {allowed} more",
                late - early <= allowed,
            )
        )
    for what, share, steady in (("p50", 0.5, _STEADY_P50), ("p99", 0.99, _STEADY_P99)):
        found = [each for each in soak.percentiles(share) if each[0] > half_s * (1 + _SETTLE)]
        early, late = _ends([value for _, value in found])
        change = _per_cent(early, late)
        rows.append(
            Row(
                f"{what} of single images, second half",
                f"{early:.1f} to {late:.1f} ms, {change:+.0f} %",
                f"at most {steady:.0f} % more",
                change <= steady,
            )
        )
    return rows


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last third: a moment of noise changes neither."""
    third = max(1, len(values) // 3)
    return float(np.median(values[:third])), float(np.median(values[-third:]))


def _per_cent(early: float, late: float) -> float:
    return 100 * (late / early - 1)


def _table(args: argparse.Namespace, rows: Sequence[Row]) -> str:
    head = f"{args.minutes:g} minutes with `workers = {args.workers or 1}` on {describe_machine()}."
    lines_ = ["| what | measured | goal | reached |", "| --- | --- | --- | --- |"]
    return "\n".join([head, "", *lines_, *(row.write() for row in rows), ""])


def _chart(args: argparse.Namespace, soak: Soak) -> Chart:
    def line(name: str) -> Line:
        return Line(name, [(one.at_s / 60, getattr(one, name)) for one in soak.samples])

    percentiles = [
        Line(name, [(at_s / 60, value) for at_s, value in soak.percentiles(share)])
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]
    panels = [
        Panel("resident memory of all processes, MiB", [line("rss_mib")]),
        Panel("open files", [line("files")]),
        Panel("threads", [line("threads")]),
        Panel("latency of single images, ms", percentiles),
    ]
    return Chart(
        f"Soak, {args.minutes:g} minutes",
        args.minutes,
        panels,
        [at_s / 60 for at_s in soak.replaced_s],
        "all workers are replaced",
    )


def _publish(table: str, svg: str) -> None:
    page = ROOT / "docs" / "resilience.md"
    text = page.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{table}{_END}{after}")
    (page.parent / "soak.svg").write_text(svg)


if __name__ == "__main__":
    sys.exit(main())

"""All inputs against one running service, with good traffic beside, and what came of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.resilience.hostile.arrays import arrays
from tests.resilience.hostile.bombs import bombs
from tests.resilience.hostile.damaged import damaged
from tests.resilience.hostile.documents import documents
from tests.resilience.hostile.exchange import Answer, act
from tests.resilience.hostile.foreign import foreign
from tests.resilience.hostile.forms import forms
from tests.resilience.hostile.inputs import HUNG_UP, Input
from tests.resilience.hostile.instances import instances
from tests.resilience.hostile.routes import routes
from tests.resilience.hostile.slow import slow
from tests.resilience.hostile.tensors import tensors
from tests.resilience.hostile.wire import wire
from tests.resilience.ledger import Ledger
from tests.resilience.service import Service
from tests.resilience.traffic import Terms, Traffic

SEED = 2024
# What is left behind: what the C library keeps for later, of the largest that is let in.
MAX_RSS_GROWTH_MIB = 256.0
# What is held at most for a moment: two threads that decode 40 megapixels each.
MAX_RSS_PEAK_MIB = 768.0
# Codes of a 503 or 504 that good requests may get while the service is full; they say so.
_FULL = frozenset({"queue_full", "deadline_exceeded", "too_many_requests"})
_AT_ONCE = 6
_WARM_UP = 200  # good answers


@dataclass(frozen=True)
class HostileReport:
    """What came of all inputs.

    Attributes:
        inputs: Bad inputs that were sent.
        good: Good requests that were sent meanwhile.
        lost: Good ones without an answer.
        wrong: Good ones with a wrong answer.
        server_errors: Answers of 500 and more that say nothing of overload, to either.
        rss_growth_mib: Memory that the service holds more afterwards.
        rss_peak_mib: Memory that it held more at most.
        failures: All that is not as it must be, one sentence each; empty where all is well.
        kinds: Inputs of each kind, and the statuses that they got.
    """

    inputs: int
    good: int
    lost: int
    wrong: int
    server_errors: int
    rss_growth_mib: float
    rss_peak_mib: float
    failures: list[str]
    kinds: dict[str, Counter[int]] = field(default_factory=dict)

    def table(self) -> str:
        """A line of Markdown for each kind of input."""
        rows = ["| kind | inputs | answers |", "| --- | --- | --- |"]
        for kind, statuses in self.kinds.items():
            found = ", ".join(f"{count} x {_shown(one)}" for one, count in sorted(statuses.items()))
            rows.append(f"| {kind} | {statuses.total()} | {found} |")
        return "\n".join(rows)


def hostile_inputs(seed: int = SEED) -> Iterator[Input]:
    """Every input, those that are slow first."""
    yield from slow()
    yield from damaged(np.random.default_rng(seed))
    for more in (foreign, bombs, arrays, documents, forms, wire, routes, tensors, instances):
        yield from more()


def run_hostile(
    server: Service, ledger: Ledger, wanted: Callable[[Input], bool] = lambda _: True
) -> HostileReport:
    """Send all inputs to a service that has the model of ``tests.resilience.traffic``.

    Args:
        server: That is ready.
        ledger: Where the good requests are entered; may have others already.
        wanted: Leaves some inputs out.
    """
    before = ledger.sent, len(ledger.lost), len(ledger.wrong), len(ledger.server_errors)
    attack = _Attack(server.port)
    with Traffic(server.port, ledger, Terms(refusals=_FULL)) as traffic:
        traffic.progress(_WARM_UP)
        start_mib = server.settled().rss_mib
        usual_mib = _forget_peak(server)
        asyncio.run(attack.run(filter(wanted, hostile_inputs())))
        peak_mib = _peak_mib(server) - usual_mib
        traffic.progress(_WARM_UP)
        end_mib = server.settled().rss_mib
    server.check_alive()
    report = HostileReport(
        inputs=sum(statuses.total() for statuses in attack.kinds.values()),
        good=ledger.sent - before[0],
        lost=len(ledger.lost) - before[1],
        wrong=len(ledger.wrong) - before[2],
        server_errors=attack.server_errors + len(ledger.server_errors) - before[3],
        rss_growth_mib=end_mib - start_mib,
        rss_peak_mib=peak_mib,
        failures=attack.failures,
        kinds=attack.kinds,
    )
    if report.rss_growth_mib > MAX_RSS_GROWTH_MIB * max(server.workers, 1):
        report.failures.append(f"{report.rss_growth_mib:.0f} MiB more are held afterwards")
    if report.rss_peak_mib > MAX_RSS_PEAK_MIB * max(server.workers, 1):
        report.failures.append(f"{report.rss_peak_mib:.0f} MiB more were held for a moment")
    return report


class _Attack:
    """Plays inputs, some at a time, and judges what comes back."""

    def __init__(self, port: int) -> None:
        self.kinds: dict[str, Counter[int]] = {}
        self.failures: list[str] = []
        self.server_errors = 0
        self._port = port
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def run(self, inputs: Iterator[Input]) -> None:
        async with asyncio.TaskGroup() as group:
            # They are made one by one, so that never all of them are in memory; and in a thread,
            # because some take a while.
            while case := await asyncio.to_thread(next, inputs, None):
                if case.slow:
                    group.create_task(self._play(case))
                    continue
                await self._room.acquire()
                task = group.create_task(self._play(case))
                task.add_done_callback(lambda _: self._room.release())
                del case, task

    async def _play(self, case: Input) -> None:
        try:
            answers = await act(self._port, case)
        except TimeoutError:
            self._fail(case, f"no answer, or no end of the connection, in {case.limit_s:g} s")
            return
        except (OSError, AssertionError, ValueError, KeyError) as error:
            self._fail(case, f"{type(error).__name__} {error}")
            return
        first = answers[0].status
        self.kinds.setdefault(case.kind, Counter())[first] += 1
        if len(answers) != case.answers:
            self._fail(case, f"{len(answers)} answers, not {case.answers}")
        for answer in answers:
            if (complaint := complaint_of(case, answer)) is not None:
                self._fail(case, complaint)
                self.server_errors += answer.status >= 500
                break

    def _fail(self, case: Input, what: str) -> None:
        self.kinds.setdefault(case.kind, Counter())
        self.failures.append(f"{case.kind}, {case.name}: {what} (expected {case.why})")


def complaint_of(case: Input, answer: Answer) -> str | None:
    """What is wrong with an answer; None where it is right."""
    said = answer.body[:300].decode(errors="replace")
    if answer.status not in case.expected:
        expected = " or ".join(_shown(status) for status in sorted(case.expected))
        return f"{_shown(answer.status)} instead of {expected}: {said}"
    if answer.status < 400 or case.bodiless:
        return None
    if "Traceback" in said or 'File "' in said:
        return f"the answer shows our code: {said}"
    kind = answer.headers.get("content-type", "")
    if kind == "application/problem+json":
        problem = json.loads(answer.body)
        complete = all(problem[key] for key in ("type", "title", "code", "detail", "hint"))
        return None if complete and problem["status"] == answer.status else f"incomplete: {said}"
    if kind == "application/json":
        return None if json.loads(answer.body)["error"] else f"no error in it: {said}"
    return None if kind.startswith("text/plain") and answer.body else f"an answer of {kind!r}"


def _forget_peak(server: Service) -> float:
    """Let the system note anew the most that the service holds (proc(5), clear_refs).

    Returns:
        What it holds now.
    """
    for pid in server.serving_pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak_mib(server)


def _peak_mib(server: Service) -> float:
    """The most that it has held since then."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in server.serving_pids]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in texts) / 1024


def _shown(status: int) -> str:
    return "hung up" if status == HUNG_UP else str(status)

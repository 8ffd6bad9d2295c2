"""Half of the faults with few rounds; ``make resilience`` runs all of them with many."""

from __future__ import annotations

import sys

import pytest

from tests.resilience.__main__ import inject, judge_hostile, main
from tests.resilience.bench import Fault
from tests.resilience.faults import EVERY
from tests.resilience.hostile import HostileReport
from tests.resilience.ledger import Ledger

# One of each kind: all of them take as long as all other tests together.
_CHOSEN = {
    "worker-killed",
    "worker-hangs",
    "process-stopped",
    "workers-replaced",
    "probe-killed",
    "broken",
    "removed",
    "unloaded",
    "swaps",
    "quota",
    "open-files",
    "memory",
    "log-gone",
    "metrics-damaged",
    "stop",
}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize(
    "fault", [fault for fault in EVERY if fault.name in _CHOSEN], ids=lambda fault: fault.name
)
def test_every_good_request_is_accounted_for(fault: Fault):
    row = inject(fault, reduced=True)
    if row.skipped:
        pytest.skip(row.skipped)
    assert not row.complaints, "\n".join(row.complaints)
    assert row.ledger.right > 100


def test_every_chosen_fault_is_there():
    assert {fault.name for fault in EVERY} >= _CHOSEN


def test_a_ledger_notices_what_never_ended():
    ledger = Ledger()
    ledger.begin()
    assert ledger.complaints() == ["1 requests were begun and 0 have ended"]
    ledger.answer()
    assert not ledger.complaints()
    for enter, word in ((ledger.lose, "lost"), (ledger.mistake, "wrong"), (ledger.fail, "5xx")):
        ledger.begin()
        enter("why")
        assert f"{word}: why" in ledger.complaints()


def test_a_fault_that_is_not_withstood_is_told(capsys):
    def fails(bench):
        bench.ledger.begin()
        bench.ledger.mistake("a wrong answer")
        raise AssertionError("this")

    row = inject(Fault("none", "none", fails), reduced=True)
    assert row.complaints == ["AssertionError: this", "wrong: a wrong answer"]
    with pytest.raises(SystemExit):
        main(["--only", "unheard-of"])
    assert "unheard-of" in capsys.readouterr().err


def test_what_hostile_inputs_do_to_good_requests_is_told():
    report = HostileReport(1, 3, 1, 1, 1, 0.0, 0.0, failures=["an input"])
    ledger = Ledger()
    for enter in (ledger.lose, ledger.mistake, ledger.fail):
        ledger.begin()
        enter("why")
    row = judge_hostile(report, ledger, "ready\nTraceback (most recent call last):\n")
    assert row.complaints[:4] == ["an input", "lost: why", "wrong: why", "5xx: why"]
    assert "a trace in the log" in row.complaints[4]
    well = judge_hostile(HostileReport(1, 0, 0, 0, 0, 0.0, 0.0, []), Ledger(), "ready\n")
    assert not well.complaints

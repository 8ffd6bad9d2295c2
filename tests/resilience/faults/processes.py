"""Processes that are killed, stopped, replaced."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.resilience.bench import Bench, Fault
from tests.resilience.service import Service, probes, wait_until
from tests.resilience.traffic import MAKERS, Terms

_STOPPED_S = 3.0


def worker_killed(bench: Bench) -> None:
    """Clients whose worker dies ask again and are answered; nobody else notices."""
    kills = bench.rounds(5, 2)
    with bench.under_traffic(workers=2, terms=Terms(cuts=True)) as scene:
        for _ in range(kills):
            victim = scene.service.serving_pids[0]
            os.kill(victim, signal.SIGKILL)
            _wait_replaced(scene.service, {victim})
            scene.traffic.progress(50)
    assert "was ended by SIGKILL" in scene.service.text()
    # A worker has at most one request of each client.
    assert bench.ledger.cut <= kills * len(MAKERS), f"{bench.ledger.cut} connections were cut"


def worker_stopped(bench: Bench) -> None:
    """What a stopped worker has taken is answered when it goes on; others go on meanwhile."""
    with bench.under_traffic(workers=2) as scene:
        for _ in range(bench.rounds(3, 1)):
            for pid in scene.service.serving_pids:
                _stop_for_a_while(pid)
                scene.traffic.progress(50)


def worker_hangs(bench: Bench) -> None:
    """A worker whose event loop shows no life is killed, and another takes its place."""
    with bench.under_traffic("--worker-timeout-s", "2", workers=2, terms=Terms(cuts=True)) as scene:
        hangs = bench.rounds(3, 1)
        for _ in range(hangs):
            victim = scene.service.serving_pids[0]
            os.kill(victim, signal.SIGSTOP)
            _wait_replaced(scene.service, {victim})
            scene.traffic.progress(50)
    assert scene.service.text().count("gives no sign of life") == hangs
    assert bench.ledger.cut <= hangs * len(MAKERS), f"{bench.ledger.cut} connections were cut"


def only_process_stopped(bench: Bench) -> None:
    """Everybody waits, and is answered when it goes on."""
    with bench.under_traffic() as scene:
        for _ in range(bench.rounds(5, 1)):
            _stop_for_a_while(scene.service.process.pid)
            scene.traffic.progress(50)


def stopped_past_deadline(bench: Bench) -> None:
    """Whose deadline has passed meanwhile gets 504, and no late answer in its place."""
    terms = Terms(refusals=frozenset({"deadline_exceeded"}))
    with bench.under_traffic("--request-timeout-s", "1", terms=terms) as scene:
        for _ in range(bench.rounds(3, 1)):
            _stop_for_a_while(scene.service.process.pid)
            scene.traffic.progress(50)


def workers_replaced(bench: Bench) -> None:
    """SIGHUP replaces all workers, one after the other, without a failed request."""
    with bench.under_traffic(workers=2) as scene:
        for _ in range(bench.rounds(5, 1)):
            before = set(scene.service.serving_pids)
            scene.service.process.send_signal(signal.SIGHUP)
            _wait_replaced(scene.service, before)
            scene.traffic.progress(50)


def hang_up_of_one(bench: Bench) -> None:
    """SIGHUP to a service that has no workers: it says so and goes on."""
    with bench.under_traffic() as scene:
        scene.service.process.send_signal(signal.SIGHUP)
        scene.service.wait_log("SIGHUP")
        scene.traffic.progress(50)


def probe_killed(bench: Bench) -> None:
    """The process that tries a new file is killed: the version before answers, and the next try."""
    with bench.under_traffic() as scene:
        for number in range(1, bench.rounds(3, 1) + 1):
            logged = len(scene.service.text())
            scene.repository.publish(2, f"2.{number}")
            wait_until(lambda: bool(probes(scene.service.process.pid)), "a probe")
            for pid in probes(scene.service.process.pid):
                os.kill(pid, signal.SIGKILL)
            scene.service.wait_log("has ended", after=logged)
            scene.traffic.progress(50)
            assert f"2.{number}" not in scene.traffic.tags
            scene.repository.publish(2, f"2.{number}-again")
            wait_until(lambda tag=f"2.{number}-again": tag in scene.traffic.tags, "the version")  # type: ignore[misc]


def _stop_for_a_while(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(_STOPPED_S)
    os.kill(pid, signal.SIGCONT)


def _wait_replaced(service: Service, gone: set[int]) -> None:
    def replaced() -> bool:
        now = set(service.serving_pids)
        return len(now) == service.workers and not now & gone and all(_lives(pid) for pid in now)

    wait_until(replaced, "other workers", 60, service)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


FAULTS = (
    Fault("worker-killed", "a worker is killed under load (SIGKILL)", worker_killed),
    Fault("worker-stopped", "a worker is stopped and goes on (SIGSTOP, SIGCONT)", worker_stopped),
    Fault("worker-hangs", "a worker stands still for longer than it may", worker_hangs),
    Fault("process-stopped", "the only process is stopped and goes on", only_process_stopped),
    Fault("stopped-past-deadline", "the same for longer than deadlines", stopped_past_deadline),
    Fault("workers-replaced", "rolling restart under load (SIGHUP)", workers_replaced),
    Fault("hang-up", "SIGHUP to a service without workers", hang_up_of_one),
    Fault("probe-killed", "the process that tries a new model is killed", probe_killed),
)

"""Several processes that share one port: started, watched, replaced and stopped by a parent.

The parent opens listening sockets for each place and keeps them open, so that what a client sends
to a worker that has just died waits for the next one in its place. The kernel spreads connections
over the places. The parent itself serves nothing and loads nothing: it can't fail of what workers
do.

A socket pair ties a worker to its parent. The worker reports over it; its end tells the parent that
the worker is dead; and when the parent closes its side, or dies, the worker finishes and leaves.
A worker that gave signs of life and gives none any more hangs: it prints where, and is killed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

_SERVING = b"serving"  # reports are lines
_FATAL = b"fatal "
_SICK = b"sick "
_ALIVE = b"alive"
_MAX_REASON_BYTES, _MAX_REPORTS_BYTES = 2048, 4096
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A worker that still lives so long behind the time that requests have to finish hangs.
_KILL_AFTER_S = 15.0
# So often the parent looks in the time that a worker has for a sign of life. It counts looks,
# not seconds: in a machine or a process group that was stopped for long, nobody hangs.
_LOOKS = 4
_TRACE_S = 1.0  # for a worker that hangs to print where
# Signals that come so close together are one: to a process and to the group that it is in.
_SAME_MOMENT_S = 0.1
# A worker that dies sooner than this, or never served, was hardly of use: the next one waits,
# longer each time.
_SOON_S = 10.0
_FIRST_WAIT_S, _MAX_WAIT_S = 0.5, 30.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seat:
    """What a worker is given.

    Attributes:
        number: No other living worker has it.
        listeners: Where it accepts connections.
        tie: Leads to the parent; what is reported is written to it, and its end means to leave.
        replacement: It begins to accept connections only when it can answer, for it takes the place
            of one that did.
    """

    number: int
    listeners: tuple[socket.socket, ...]
    tie: socket.socket
    replacement: bool

    def report_serving(self) -> None:
        """Say that connections are accepted."""
        self._report(_SERVING)

    def report_alive(self) -> None:
        """Give a sign of life; to be followed by others."""
        self._report(_ALIVE)

    def report_fatal(self, reason: str) -> None:
        """Say why no worker that starts now can serve; to be followed by the end of this one."""
        self._report(_FATAL + " ".join(reason.split()).encode()[:_MAX_REASON_BYTES])

    def report_sick(self, reason: str) -> None:
        """Say that this worker can't do its work any more, and another one should."""
        self._report(_SICK + " ".join(reason.split()).encode()[:_MAX_REASON_BYTES])

    def _report(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # the parent is gone
            self.tie.send(message + b"\n")


@dataclass(eq=False)
class _Worker:
    number: int
    place: int
    pid: int
    tie: socket.socket
    replaces: _Worker | None
    again: bool  # somebody was in its place before
    started_s: float = field(default_factory=time.monotonic)
    serving: bool = False
    leaving: bool = False
    kill_at_s: float = float("inf")
    heard: bool = False
    silent_looks: int | None = None  # None: it never gave a sign of life


@dataclass
class _Place:
    """Listening sockets, and how those who accepted from them fared."""

    listeners: tuple[socket.socket, ...]
    early_deaths: int = 0
    fill_at_s: float = float("inf")

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()


class Supervisor:
    """Keeps a worker in each place until told to stop."""

    def __init__(
        self,
        listeners: list[tuple[socket.socket, ...]],
        work: Callable[[Seat], int],
        on_death: Callable[[int], None],
        drain_s: float = 30.0,
        silent_s: float = 0.0,
    ) -> None:
        """Take over the sockets; nothing starts before ``run``.

        Args:
            listeners: Those of each worker.
            work: What a worker does, in a process of its own; returns its exit status.
            on_death: Called in the parent with the number of a worker that has ended.
            drain_s: So long workers may take to finish when they are told to stop.
            silent_s: Without a sign of life for so long, a worker is killed; 0: never.
        """
        self._look_every_s = silent_s / _LOOKS if silent_s else float("inf")
        self._look_at_s = time.monotonic() + self._look_every_s
        self._kill_after_s = _KILL_AFTER_S + drain_s
        self._places = [_Place(of_one) for of_one in listeners]
        self._work = work
        self._on_death = on_death
        self._workers: list[_Worker] = []
        self._to_replace: list[_Worker] = []
        self._stopping, self._told_s = False, 0.0
        self._ever_served = False
        self._failure: str | None = None

    def run(self) -> str | None:
        """Serve until SIGTERM or SIGINT; on SIGHUP replace all workers, one after the other.

        Returns:
            Why serving is impossible; None after a stop that was asked for.
        """
        with _signals() as woken:
            for place in range(len(self._places)):
                self._start(place)
            while self._workers or not self._stopping:
                self._wait(woken)
                self._fill_places()
                self._replace_next()
                self._look_for_silence()
                self._kill_hanging()
        return self._failure

    def _wait(self, woken: socket.socket) -> None:
        """Sleep until something happens, and deal with it."""
        with selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            for worker in self._workers:
                selector.register(worker.tie, selectors.EVENT_READ, worker)
            alarms = [self._look_at_s, *(worker.kill_at_s for worker in self._workers)]
            alarms += [place.fill_at_s for place in self._places]
            wait_s = min(alarms) - time.monotonic()
            found = selector.select(None if wait_s == float("inf") else max(0.0, wait_s))
        # Signals first: workers that end because the whole process group was told to are not dead
        # but stopped.
        for key, _ in sorted(found, key=lambda one: one[0].data is not None):
            if key.data is None:
                for number in woken.recv(64):
                    self._on_signal(number)
            else:
                self._on_reports(key.data)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            if not self._stopping:
                _logger.info("replacing all workers")
                self._to_replace = [worker for worker in self._workers if not worker.leaving]
        elif number in _STOP_SIGNALS and not self._stopping:
            self._stop()
        elif number in _STOP_SIGNALS and time.monotonic() - self._told_s > _SAME_MOMENT_S:
            _logger.warning("a second signal came: workers end at once")
            self._set_end(_KILL_AFTER_S)
            self._tell_all(signal.SIGINT)

    def _on_reports(self, worker: _Worker) -> None:
        reports = worker.tie.recv(_MAX_REPORTS_BYTES)
        for report in reports.splitlines():
            self._on_report(worker, report)
        if not reports:
            self._on_end(worker)

    def _on_report(self, worker: _Worker, report: bytes) -> None:
        if report == _ALIVE:
            worker.heard = True
        elif report == _SERVING:
            worker.serving = self._ever_served = True
            if worker.replaces is not None:
                self._let_go(worker.replaces)
                worker.replaces = None
        elif report.startswith(_SICK):
            if not self._stopping and not self._is_replaced(worker):
                reason = report.removeprefix(_SICK).decode(errors="replace")
                _logger.error("worker %d is to be replaced: %s", worker.pid, reason)
                self._to_replace.append(worker)
        elif report.startswith(_FATAL):
            reason = report.removeprefix(_FATAL).decode(errors="replace")
            others = any(one is not worker and not one.leaving for one in self._workers)
            if worker.replaces is not None:
                _logger.error("the replacement can't serve: %s", reason)
            elif worker.again and others:  # they go on, and it is tried again later and later
                _logger.error("worker %d can't serve: %s", worker.pid, reason)
            elif not self._stopping:
                self._failure = reason
                self._stop()

    def _is_replaced(self, worker: _Worker) -> bool:
        """Whether it leaves, or is about to."""
        successors = [one.replaces for one in self._workers]
        return worker.leaving or worker in self._to_replace or worker in successors

    def _on_end(self, worker: _Worker) -> None:
        _, status = os.waitpid(worker.pid, 0)
        worker.tie.close()
        self._workers.remove(worker)
        self._on_death(worker.number)
        if self._stopping or worker.leaving:
            return
        how = _describe(os.waitstatus_to_exitcode(status))
        if worker.replaces is not None:
            _logger.error("the replacement %s; the workers that there are go on", how)
            self._to_replace = []
        elif not self._ever_served:
            self._failure = f"a worker {how} before it could serve"
            self._stop()
        elif successor := next((one for one in self._workers if one.replaces is worker), None):
            successor.replaces = None
        else:
            self._refill(worker, how)

    def _refill(self, worker: _Worker, how: str) -> None:
        """Settle when a place is taken again: at once, unless workers keep dying in it."""
        place = self._places[worker.place]
        now_s = time.monotonic()
        early = not worker.serving or now_s - worker.started_s < _SOON_S
        place.early_deaths = place.early_deaths + 1 if early else 0
        wait_s = 0.0
        if place.early_deaths > 1:
            wait_s = min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(place.early_deaths - 2, 16))
        place.fill_at_s = now_s + wait_s
        _logger.error("worker %d %s; starting another in %g s", worker.pid, how, wait_s)

    def _fill_places(self) -> None:
        for index, place in enumerate(self._places):
            if not self._stopping and place.fill_at_s <= time.monotonic():
                place.fill_at_s = float("inf")
                self._start(index, again=True)

    def _replace_next(self) -> None:
        """Begin with the next worker that is to be replaced when the one before is through."""
        busy = any(worker.leaving or worker.replaces for worker in self._workers)
        while self._to_replace and not busy and not self._stopping:
            worker = self._to_replace.pop(0)
            if worker in self._workers:
                self._start(worker.place, replaces=worker, again=True)
                return

    def _start(self, place: int, *, replaces: _Worker | None = None, again: bool = False) -> None:
        taken = {worker.number for worker in self._workers}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        ours, theirs = socket.socketpair()
        # A signal to the child must not be taken for one to its parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, [*_STOP_SIGNALS, signal.SIGHUP])
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_worker(Seat(number, self._places[place].listeners, theirs, again))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_STOP_SIGNALS, signal.SIGHUP])
        theirs.close()
        self._workers.append(_Worker(number, place, pid, ours, replaces, again))
        _logger.debug("worker %d started as number %d", pid, number)

    def _be_worker(self, seat: Seat) -> NoReturn:
        """The rest of the life of a child process."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            # The parent replaces workers; one that is told so itself, with its whole group, waits.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            faulthandler.register(signal.SIGUSR1)  # prints where each thread is
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_STOP_SIGNALS, signal.SIGHUP])
            # What other workers have must not stay open because this one holds it.
            for worker in self._workers:
                worker.tie.close()
            for place in self._places:
                if place.listeners is not seat.listeners:
                    place.close()
            status = self._work(seat)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # what the parent was about to do is not the child's

    def _let_go(self, worker: _Worker) -> None:
        """Let a worker finish what it has and end."""
        worker.leaving = True
        worker.kill_at_s = time.monotonic() + self._kill_after_s
        worker.tie.shutdown(socket.SHUT_WR)

    def _stop(self) -> None:
        self._stopping, self._told_s = True, time.monotonic()
        for place in self._places:
            place.close()
            place.fill_at_s = float("inf")
        self._set_end(self._kill_after_s)
        self._tell_all(signal.SIGTERM)

    def _set_end(self, seconds: float) -> None:
        for worker in self._workers:
            worker.kill_at_s = min(worker.kill_at_s, time.monotonic() + seconds)

    def _tell_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            os.kill(worker.pid, number)

    def _look_for_silence(self) -> None:
        """Have workers killed that gave signs of life and give none any more."""
        if self._look_at_s > time.monotonic():
            return
        self._look_at_s = time.monotonic() + self._look_every_s
        for worker in self._workers:
            if worker.heard:
                worker.heard, worker.silent_looks = False, 0
            elif worker.silent_looks is not None and not self._stopping and not worker.leaving:
                worker.silent_looks += 1
                if worker.silent_looks == _LOOKS:
                    _logger.error("worker %d gives no sign of life", worker.pid)
                    worker.kill_at_s = time.monotonic() + _TRACE_S
                    os.kill(worker.pid, signal.SIGUSR1)

    def _kill_hanging(self) -> None:
        for worker in self._workers:
            if worker.kill_at_s <= time.monotonic():
                _logger.error("worker %d hangs; killing it", worker.pid)
                worker.kill_at_s = float("inf")
                os.kill(worker.pid, signal.SIGKILL)


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Turn signals into bytes that can be waited for."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    numbers = (*_STOP_SIGNALS, signal.SIGHUP)
    before = signal.set_wakeup_fd(theirs.fileno()), [signal.getsignal(n) for n in numbers]
    for number in numbers:
        signal.signal(number, lambda *_: None)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(before[0])
        for number, handler in zip(numbers, before[1], strict=True):
            signal.signal(number, handler)
        ours.close()
        theirs.close()


def workers_obstacle() -> str | None:
    """Why this system can't run several workers; None where it can."""
    if not hasattr(os, "fork"):
        return "this system can't fork; use 1"
    if not hasattr(socket, "SO_REUSEPORT"):
        return "this system can't share a port (SO_REUSEPORT); use 1"
    return None


def _describe(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"

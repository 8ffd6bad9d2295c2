"""The parent of several workers, with workers that do next to nothing.

In processes of their own: a process with threads, as this one is, must not fork.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

PARENT = """
import logging, os, signal, socket, sys, time
from service.workers import Supervisor

logging.basicConfig(format="%(message)s", level="INFO", stream=sys.stdout)

def serve(seat):
    seat.report_serving()
    seat.tie.recv(1)  # until the parent lets go

def main(work, workers=2):
    listeners = [(socket.create_server(("127.0.0.1", 0)),) for _ in range(workers)]
    print("->", Supervisor(listeners, work, lambda number: print("dead:", number)).run())
"""

needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="no fork")


def run(script: str) -> list[str]:
    command = [sys.executable, "-u", "-c", PARENT + script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@needs_fork
def test_a_worker_that_never_serves_ends_all_of_them():
    lines = run("""
def work(seat):
    if seat.number:
        return 7
    time.sleep(60)
main(work)
""")
    assert lines[-1] == "-> a worker ended with status 7 before it could serve"


@needs_fork
def test_a_reason_that_holds_for_all_is_told_once():
    lines = run("""
def work(seat):
    seat.report_fatal("no such\\ndevice")
    return 1
main(work, 3)
""")
    assert lines.count("-> no such device") == 1


@needs_fork
def test_a_worker_that_keeps_dying_is_started_later_and_later():
    lines = run("""
def work(seat):
    if seat.number == 0 or seat.replacement:
        seat.report_serving()
        time.sleep(0.05)
        os._exit(3)
    serve(seat)
def stop(*_):
    os.kill(os.getpid(), signal.SIGTERM)
import threading
timer = threading.Timer(3, stop)
os.register_at_fork(after_in_parent=lambda: timer.is_alive() or timer.start())
main(work)
""")
    waits = [line.rpartition(" in ")[2] for line in lines if "starting another" in line]
    assert waits[:4] == ["0 s", "0.5 s", "1 s", "2 s"]
    assert lines[-1] == "-> None"


@needs_fork
def test_a_replacement_that_fails_leaves_the_worker_where_it_is():
    lines = run("""
def work(seat):
    if seat.replacement:
        seat.report_fatal("not today")
        return 1
    seat.report_serving()
    if seat.number == 0:
        os.kill(os.getppid(), signal.SIGHUP)
    time.sleep(0.5)
    if seat.number == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    serve(seat)
main(work)
""")
    assert "the replacement can't serve: not today" in lines
    assert not [line for line in lines if "starting another" in line]
    assert lines[-1] == "-> None"
    # The number of the one that failed is the first that was free.
    assert lines.index("dead: 2") < min(lines.index("dead: 0"), lines.index("dead: 1"))


@needs_fork
def test_who_serves_goes_on_where_nobody_new_can():
    """A file has become unreadable, say, and then a worker dies, here one that is just replaced."""
    lines = run("""
import mmap
shared = mmap.mmap(-1, 3)  # the successor is there; the one before is dead; who tried so far
def wait_for(index):
    while not shared[index]:
        time.sleep(0.01)
def work(seat):
    if seat.replacement:
        shared[0] = 1
        wait_for(1)
        shared[2] += 1
        seat.report_fatal("not today")
        if shared[2] == 3:
            os.kill(os.getppid(), signal.SIGTERM)
        return 1
    seat.report_serving()
    if seat.number == 0:
        seat.report_sick("for a test")
        wait_for(0)
        os._exit(3)
    serve(seat)
def on_death(number):
    shared[1] = 1
listeners = [(socket.create_server(("127.0.0.1", 0)),) for _ in range(2)]
print("->", Supervisor(listeners, work, on_death).run())
""")
    assert sum("can't serve: not today" in line for line in lines) >= 2
    waits = [line.rpartition(" in ")[2] for line in lines if "starting another" in line]
    assert waits[:2] == ["0 s", "0.5 s"]
    assert lines[-1] == "-> None"


@needs_fork
def test_where_nobody_is_left_the_reason_ends_the_service():
    lines = run("""
def work(seat):
    if seat.replacement:
        seat.report_fatal("not today")
        return 1
    seat.report_serving()
    os._exit(3)
main(work, 1)
""")
    assert lines[-1] == "-> not today"


@needs_fork
def test_a_worker_that_gives_no_more_signs_of_life_prints_where_it_is_and_is_replaced():
    """One that never gave any is left alone, as is one that is heard."""
    lines = run("""
def hang_here():
    while True:
        pass
def work(seat):
    seat.report_serving()
    if seat.replacement:
        os.kill(os.getppid(), signal.SIGTERM)
    elif seat.number == 0:
        seat.report_alive()
        hang_here()
    seat.tie.settimeout(0.1)
    while True:
        if seat.number == 2:
            seat.report_alive()
        try:
            seat.tie.recv(1)
        except TimeoutError:
            continue
        return 0
os.dup2(1, 2)
listeners = [(socket.create_server(("127.0.0.1", 0)),) for _ in range(3)]
print("->", Supervisor(listeners, work, lambda number: None, silent_s=2).run())
""")
    assert sum("gives no sign of life" in line for line in lines) == 1
    assert any("in hang_here" in line for line in lines)
    [killed] = [line for line in lines if "starting another" in line]
    assert "was ended by SIGKILL" in killed
    assert lines[-1] == "-> None"


@needs_fork
def test_who_was_stopped_with_its_parent_does_not_hang():
    lines = run("""
def work(seat):
    seat.report_serving()
    seat.report_alive()
    time.sleep(0.8)
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(4)
    os.kill(os.getppid(), signal.SIGCONT)
    for _ in range(10):
        seat.report_alive()
        time.sleep(0.3)
    os.kill(os.getppid(), signal.SIGTERM)
    seat.tie.recv(1)
listeners = [(socket.create_server(("127.0.0.1", 0)),)]
print("->", Supervisor(listeners, work, lambda number: None, silent_s=2).run())
""")
    assert not [line for line in lines if "no sign of life" in line]
    assert lines[-1] == "-> None"

"""What a soak counts has really come about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from soak import Soak

from tests.resilience.repository import Repository
from tests.resilience.service import Service, children, wait_until

# As a service with workers does on SIGHUP; those before stay where {ends} is False.
_PARENT = """
import signal, subprocess, sys

def start(*_):
    global children
    old, children = children, [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    for one in old if {ends} else ():
        one.kill()
        one.wait()

children = []
signal.signal(signal.SIGHUP, start)
start()
while True:
    signal.pause()
"""


def test_a_swap_counts_once_it_is_seen(tmp_path):
    soak, repository, seen = Soak(), Repository(tmp_path / "models"), set[str]()

    def answers(tag: str) -> bool:
        seen.add(tag)
        return repository.file(2).is_file()

    soak.swap(repository, answers)
    soak.swap(repository, answers)
    assert seen == {"2.1", "2.2"}
    assert soak.changes(0, 0).reached
    soak.swap(repository, lambda _: False, patience_s=0)
    row = soak.changes(0, 0)
    assert not row.reached
    assert "2 of 3 swaps" in row.measured
    assert "2.3" in soak.missed[0]


def test_changes_are_all_that_were_planned_and_end_well():
    assert Soak(planned=1, replaced_s=[1.0]).changes(0, 0).reached
    assert not Soak(planned=2, replaced_s=[1.0]).changes(0, 0).reached
    assert not Soak().changes(1, 0).reached
    assert not Soak().changes(0, 1).reached


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("ends", [True, False])
def test_workers_are_replaced_once_the_old_ones_are_gone(ends, tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", _PARENT.replace("{ends}", str(ends))])
    service, soak = Service(parent, 0, tmp_path / "log", workers=2), Soak(planned=1)
    try:
        wait_until(lambda: len(service.serving_pids) == 2, "two workers")
        assert not soak.is_replacing(service)
        soak.replace(service)
        if ends:
            wait_until(lambda: not soak.is_replacing(service), "others")
        else:
            wait_until(lambda: len(service.serving_pids) == 4, "two more")
            assert soak.is_replacing(service)
        assert soak.changes(0, 0).reached is ends
    finally:
        left = children(parent.pid)
        parent.kill()
        parent.wait()
        for pid in left:
            os.kill(pid, signal.SIGKILL)

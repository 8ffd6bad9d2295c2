from __future__ import annotations

import os
import subprocess
import sys

import pytest

from service.tuning import processes

_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
held = bytearray(40 * 2**20)
while sum(range(10**6)) and True: print(flush=True)
'''], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
input()
child.kill()
child.wait()
"""


def test_a_process_counts_with_all_that_it_has_started():
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert set(processes.family(parent.pid)) == {parent.pid, child}
    assert processes.rss_bytes(parent.pid) > 40 * 2**20
    pss = processes.pss_bytes(parent.pid)
    assert pss is None or 0 < pss <= processes.rss_bytes(parent.pid)
    before = processes.cpu_s(parent.pid)
    assert before > 0
    parent.communicate("\n")
    assert processes.family(parent.pid) == {}
    assert processes.rss_bytes(parent.pid) == 0


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_pss_is_unknown_where_the_system_does_not_say(error, monkeypatch, tmp_path):
    stat = tmp_path / str(os.getpid())
    stat.mkdir()
    fields = ["S", "1", *["0"] * 40]
    (stat / "stat").write_text(f"1 (a) b) {' '.join(fields)}")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert list(processes.family(os.getpid())) == [os.getpid()]
    assert processes.pss_bytes(os.getpid()) is None

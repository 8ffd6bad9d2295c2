from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.doctor.findings import Finding
from service.doctor.machine import examine_machine

MIB = 2**20


def container(folder: Path, *, limit: int, used: int, idle_cache: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 4096\nfile 8192\ninactive_anon 1\nactive_file 2\ninactive_file {idle_cache}\n"
    )
    return folder


def memory(cgroup: Path) -> Finding:
    (found,) = [each for each in examine_machine(1, 1, cgroup) if each.about == "memory"]
    return found


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads /proc")
def test_what_the_kernel_keeps_of_files_is_not_used_memory(tmp_path):
    full = container(tmp_path, limit=700 * MIB, used=690 * MIB, idle_cache=1 * MIB)
    assert memory(full).state == "warning"
    of_files = container(tmp_path, limit=700 * MIB, used=690 * MIB, idle_cache=600 * MIB)
    assert memory(of_files).state == "ok"
    assert "0.6 GiB free" in memory(of_files).found


@pytest.mark.parametrize(
    ("limits", "state", "words"),
    [((64, 900), "ok", ["64", "900"]), ((600, 600), "warning", ["344 instead of 500", "756"])],
)
def test_open_files_are_held_against_the_hard_limit(limits, state, words):
    pytest.importorskip("resource")
    script = f"""
import dataclasses, json, resource
from service.doctor.machine import examine_machine
resource.setrlimit(resource.RLIMIT_NOFILE, {limits})
print(json.dumps([dataclasses.asdict(one) for one in examine_machine(1, 500)]))
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    (found,) = [each for each in json.loads(printed.stdout) if each["about"] == "open files"]
    assert found["state"] == state
    assert all(word in found["found"] + found["fix"] for word in words)

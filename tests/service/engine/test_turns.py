from __future__ import annotations

import subprocess
import sys
import time

import pytest

from service.engine.turns import own_turn

_HOLD = """
import sys, time
from pathlib import Path
from service.engine.turns import own_turn
with own_turn(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks files")


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_turn_comes_when_the_one_before_is_over(tmp_path, holder):
    assert holder.stdin is not None
    with own_turn(tmp_path / "lock", patience_s=0.1):
        pass  # it has waited in vain, and goes on
    holder.stdin.write("\n")
    holder.stdin.flush()
    with own_turn(tmp_path / "lock", patience_s=60):
        assert holder.wait(30) == 0


def test_a_turn_ends_with_its_process(tmp_path, holder):
    holder.kill()
    began = time.monotonic()
    with own_turn(tmp_path / "lock", patience_s=60):
        assert time.monotonic() - began < 50


def test_nobody_waits_for_a_file_that_can_not_be_made(tmp_path):
    ran = []
    for file in (None, tmp_path / "none" / "lock"):
        with own_turn(file, patience_s=60):
            ran.append(file)
    assert len(ran) == 2
    with pytest.raises(ValueError, match="inside"), own_turn(tmp_path / "lock"):
        raise ValueError("inside")

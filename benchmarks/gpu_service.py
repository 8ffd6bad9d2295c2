"""The real service as a process, and what its threads do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from comparison.processes import ServerError

_READY_S = 600  # TensorRT and cuDNN take their time
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Served:
    """A service that answers."""

    pid: int
    port: int

    def model(self, name: str) -> dict[str, Any]:
        """What it says of a model."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}/v1/models/{name}", timeout=30)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


@dataclass(frozen=True)
class Profile:
    """CPU time of the service's threads since they began, and what the GPU does now.

    Attributes:
        at_s: When it was taken.
        threads_s: Seconds by thread; "main" runs the event loop.
        gpu_percent: Utilisation of the first GPU over the last moments; None without nvidia-smi.
    """

    at_s: float
    threads_s: dict[str, float]
    gpu_percent: int | None


@contextlib.contextmanager
def serve(repository: Path, device: str) -> Iterator[Served]:
    """Run the service until the end of the block.

    Raises:
        ServerError: It ends, or is not ready in time; with what it said last.
    """
    program = Path(sys.executable).with_name("adaresnet")
    command = [
        *(str(program), "serve", "--models", str(repository), "--device", device),
        *("--port", "0", "--no-access-log", "--repository-poll-s", "0"),
    ]
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield Served(process.pid, _wait(process, Path(log.name)))
        finally:
            process.terminate()
            process.wait(60)


def profile(served: Served) -> Profile:
    """Read ``/proc``; nothing is attached to the service."""
    threads = {}
    for task in Path(f"/proc/{served.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            name = "main" if int(task.name) == served.pid else f"thread {task.name}"
            threads[name] = (int(fields[11]) + int(fields[12])) / _TICKS
    return Profile(time.perf_counter(), threads, _gpu_percent())


def _wait(process: subprocess.Popen[bytes], log: Path) -> int:
    until_s = time.perf_counter() + _READY_S
    while time.perf_counter() < until_s:
        found = _LISTENING.search(log.read_text())
        if process.poll() is not None:
            break
        if found is not None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{found[1]}/readyz", timeout=5).is_success:
                    return int(found[1])
        time.sleep(0.1)
    raise ServerError(f"the service does not answer: {log.read_text().strip()[-500:]}")


def _gpu_percent() -> int | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return int(words[0]) if words and words[0].isdigit() else None

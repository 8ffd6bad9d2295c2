"""Start ``adaresnet serve`` for a benchmark, and ask it things."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.processes import free_port, running, scratch_folder

MODELS = Path(__file__).parents[1] / "models"  # the shipped ones
PATH = "/v1/classify"
READY_S = 60.0
_ADARESNET = Path(sys.executable).with_name("adaresnet")


@dataclass(frozen=True)
class OwnService:
    """A running service.

    Attributes:
        pid: Of its main process.
        port: Where it listens.
        models: The repository.
        folder: For whatever a benchmark writes; removed afterwards.
    """

    pid: int
    port: int
    models: Path
    folder: Path

    def connect(self, timeout_s: float = READY_S) -> http.client.HTTPConnection:
        """A connection, to be closed."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def model(self, name: str) -> dict[str, Any]:
        """What the service says of a model.

        Raises:
            SystemExit: There is none of this name.
        """
        status, text = self.get(f"/v1/models/{name}")
        found: dict[str, Any] = json.loads(text)
        if status != 200:
            raise SystemExit(f"--model: {found['detail']} {found['hint']}")
        return found

    def sum_of(self, metric: str) -> float:
        """A metric, summed over all its series; its name as far as it tells it from others."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of an answer."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextlib.contextmanager
def serving(models: Path, arguments: Sequence[str]) -> Iterator[OwnService]:
    """Run a service over a repository, from before it is ready to the end of the context."""
    port, models = free_port(), models.resolve()
    command = [str(_ADARESNET), "serve", "--models", str(models), "--port", str(port), *arguments]
    with scratch_folder() as folder, running(command, os.environ, folder, port) as server:
        service = OwnService(server.process.pid, port, models, folder)
        until = time.monotonic() + READY_S
        while not _is_ready(service):
            server.check_alive()
            if time.monotonic() > until:
                raise SystemExit(f"the service did not get ready: {server.log_tail()}")
            time.sleep(0.005)
        yield service


def wait_until(reached: Callable[[], bool], what: str) -> None:
    """Wait, but not for ever.

    Raises:
        SystemExit: It took too long.
    """
    until = time.monotonic() + READY_S
    while not reached():
        if time.monotonic() > until:
            raise SystemExit(f"waited too long for {what}")
        time.sleep(0.01)


def memory_of(pid: int, name: str) -> int:
    """A size in a process's status, bytes; 0 where the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0


def _is_ready(service: OwnService) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return service.get("/readyz")[0] == 200
    return False

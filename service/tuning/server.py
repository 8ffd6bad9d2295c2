"""Start the real service for a candidate, wait until it answers, ask it, end it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.settings import ENV_PREFIX
from service.tuning import stops

HOST = "127.0.0.1"
_READY_S = 300.0  # a TensorRT engine, or a large model on a slow disk
_TELL_S = 10.0
_STOP_S = 15.0
_ANSWER_S = 60.0
_POLL_S = 0.05
# Of /readyz: all that there is has been tried, and is tried again only minutes later.
_FINAL = (b"can't answer", b"there is no model")
# So many connections in a row, for each worker, must lead to one that is ready: the kernel chooses
# at random, so that one that is not would hardly ever be missed.
_PROBES_A_WORKER = 12
_TAIL_BYTES = 4000
_SHOWN = 300


class ServerError(Exception):
    """The service did not start, or ended."""


@dataclass(frozen=True)
class Running:
    """A service that runs.

    Attributes:
        process: Its first process.
        port: On this machine.
        log: What it writes.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def wait_until_ready(self, workers: int, tell: Callable[[str], None]) -> None:
        """Wait until every worker can answer.

        Args:
            workers: There are.
            tell: Told why where it takes long.

        Raises:
            ServerError: It has ended, it can't load its models, or it takes too long.
        """
        in_a_row, said, told = 0, "it does not listen", False
        started_s = time.monotonic()
        while in_a_row < (1 if workers == 1 else _PROBES_A_WORKER * workers):
            self.check_alive()
            try:
                status, body = self.ask("GET", "/readyz")
            except (OSError, http.client.HTTPException):
                status, body = 0, b""
            if status == 200:
                in_a_row += 1
                continue
            in_a_row, said = 0, body.decode(errors="replace")[:_SHOWN] or said
            if any(words in body for words in _FINAL):
                raise ServerError(f"is {self._why(json.loads(body)['status'])}")
            waited_s = time.monotonic() - started_s
            if waited_s > _TELL_S and not told:
                told = True
                tell(f"waiting for the service, for {_READY_S:.0f} s at most: {said}")
            if waited_s > _READY_S:
                raise ServerError(f"is not ready after {_READY_S:.0f} s: {said}")
            time.sleep(_POLL_S)

    def _why(self, status: str) -> str:
        """What ``/readyz`` says, and what each model does."""
        errors = [
            f"{model['name']} version {version['version']}: {version['error']}"
            for model in self.ask_json("GET", "/v1/models")["models"]
            for version in model["versions"]
            if not version["ready"] and "error" in version
        ]
        return "; ".join([status, *errors])

    def check_alive(self) -> None:
        """Raise ``ServerError`` with what it said last where it has ended."""
        if self.process.poll() is not None:
            raise ServerError(f"ended with status {self.process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its log."""
        text = self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:_SHOWN] if lines else "it said nothing"

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Send one request over a connection of its own; returns status and body.

        Raises:
            OSError: There is no connection.
            http.client.HTTPException: The answer breaks off.
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=_ANSWER_S)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def ask_json(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Likewise; returns what the body says.

        Raises:
            ValueError: It refuses; the message has the reason.
            ServerError: There is no answer.
        """
        try:
            status, answer = self.ask(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self.check_alive()
            raise ServerError(f"does not answer: {error}") from None
        content = json.loads(answer)
        if status != 200:
            raise ValueError(f"{content.get('detail')} {content.get('hint', '')}".strip())
        return content


@contextlib.contextmanager
def running(config: Path, log: Path) -> Iterator[Running]:
    """Run ``adaresnet serve`` with a settings file, and end it with all its processes.

    Args:
        config: TOML; nothing in the environment wins over it.
        log: Written anew.
    """
    port = _free_port()
    command = program("-c", "from service.cli import run; run()", "serve")
    process = None
    try:
        with stops.deferred(), log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603, it is this very program
                [*command, "--host", HOST, "--port", str(port)],
                env=_environment(os.environ, config),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for this program, which then ends that one
            )
        yield Running(process, port, log)
    finally:
        if process is not None:
            with stops.deferred():
                _end(process)


def program(*words: str) -> Sequence[str]:
    """A command with this Python, which imports nothing from the folder one happens to be in."""
    return [sys.executable, "-P", *words]


def _environment(inherited: Mapping[str, str], config: Path) -> dict[str, str]:
    kept = {name: value for name, value in inherited.items() if not name.startswith(ENV_PREFIX)}
    return {**kept, f"{ENV_PREFIX}CONFIG": str(config)}


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):  # its workers, if it could not end them
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

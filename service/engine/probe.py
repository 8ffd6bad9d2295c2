"""Try a model file in a process of its own before the service opens it.

ONNX Runtime is a large C++ program and the file comes from somewhere: one that makes it crash, hang
or take all memory must not take the service with it. ``python -m service.engine.probe`` imports
ONNX Runtime once and then forks for every file, with limits on memory and time. So a file costs
what loading it costs, and none can harm the next. The process lives for one look at the repository.

Requests and answers are lines of JSON over its standard input and output.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from service.engine.bundle import read_bundle
from service.engine.errors import ModelLoadError, ServiceError
from service.engine.onnx_file import check_model_file
from service.engine.session import Session, SessionOptions
from service.engine.survey import Findings, Wishes, survey_model

# ONNX Runtime holds up to five copies of the weights while it loads them.
_MEMORY_A_BYTE = 8
_BYTES_A_SECOND = 20_000_000  # more time for larger files
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_PICTURES = 2
_CAN_FORK = hasattr(os, "fork")
_OPTIONS = SessionOptions("cpu", threads=1)


@dataclass(frozen=True)
class Limits:
    """What one file may take, besides more for a larger one.

    Attributes:
        memory_bytes: Address space above what the process has before it opens the file.
        time_s: Until it is loaded and was run, whole seconds.
    """

    memory_bytes: int = 2 * 2**30
    time_s: int = 60

    def of(self, size: int) -> Limits:
        """The limits for a file of so many bytes."""
        return Limits(
            self.memory_bytes + _MEMORY_A_BYTE * size, self.time_s + size // _BYTES_A_SECOND
        )


@dataclass(frozen=True)
class Tried:
    """SHA-256 of the files that were tried, so that the caller opens the same."""

    digest: str
    config_digest: str | None


class Probe:
    """Tries files, one at a time. Safe to close from another thread.

    Where a system can't fork, which is Windows, it tries them in this process.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """Start nothing yet."""
        self._limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def try_out(self, model: Path) -> Tried:
        """Open and run a version as the service would.

        Raises:
            ModelLoadError: What the service would raise, or that the file crashes ONNX Runtime or
                takes too much time or memory.
        """
        return Tried(**self._ask({"task": "try", "path": str(model)}))

    def survey(self, model: Path, wishes: Wishes) -> Findings:
        """Find out how a foreign model is to be served; see ``survey_model``.

        Raises:
            ModelLoadError: It can't be, or as for ``try_out``.
        """
        request = {"task": "survey", "path": str(model), "wishes": wishes.model_dump()}
        return Findings.model_validate(self._ask(request))

    def rest(self) -> None:
        """End the process until the next file."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _kill(process)
            with process:  # closes its pipes and waits for its end
                pass

    def close(self) -> None:
        """End the process, whatever it does, and never start another.

        A file that is being tried then fails, and its thread goes on.
        """
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill(self._process)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        limits = self._limits.of(_size(request["path"]))
        request |= {"limits": asdict(limits)}
        answer = self._child(request) if _CAN_FORK else _do(request, limits)
        if "detail" in answer:
            raise ModelLoadError(answer["detail"], hint=answer["hint"])
        return answer

    def _child(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._started()
        try:
            _pipe(process.stdin).write(json.dumps(request).encode() + b"\n")
            _pipe(process.stdin).flush()
            line = _pipe(process.stdout).readline()
            answer: dict[str, Any] = json.loads(line)
        except (OSError, ValueError) as error:
            self.rest()
            raise ModelLoadError(
                "The process that tries model files has ended.",
                hint="The file is tried again later; see also the setting probe_models.",
            ) from error
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise ModelLoadError("The service is stopping.", hint="Start it again.")
            if self._process is None:
                self._process = _start()
            return self._process


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # with what it has forked


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _start() -> subprocess.Popen[bytes]:
    # The same modules as here, and none from the current folder.
    paths = os.pathsep.join(path for path in sys.path if path)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "service.engine.probe"],
            env={**os.environ, **one_thread, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ModelLoadError(
            f"No process to try model files in can be started: {error.strerror}.",
            hint="Allow one more process, or set probe_models to false for files that you trust.",
        ) from error


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(_in_fork(line)) + "\n")
        answers.flush()


def _in_fork(line: str) -> dict[str, Any]:
    request = json.loads(line)
    limits = Limits(**request["limits"])
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _answer(request, limits, writer)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        answer: dict[str, Any] = json.loads(text)
        return answer
    return _refusal(status, limits)


def _answer(request: dict[str, Any], limits: Limits, writer: int) -> NoReturn:
    """Do one request in a process that ends with it."""
    status = 1
    try:
        _limit(limits)
        with os.fdopen(writer, "w") as pipe:
            json.dump(_do(request, limits), pipe)
        status = 0
    finally:
        os._exit(status)


def _do(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    path = Path(request["path"])
    try:
        bundle = read_bundle(path)
        check_model_file(bundle.model)
        if request["task"] == "survey":
            wishes = Wishes.model_validate(request["wishes"])
            return survey_model(bundle.model, wishes).model_dump()
        _run_once(Session(bundle.model, _OPTIONS, bundle.config))
        return {"digest": bundle.digest, "config_digest": bundle.config_digest}
    except ServiceError as error:
        if _out_of_memory(error):
            return _no_memory(limits)
        return {"detail": error.detail, "hint": error.hint}
    except MemoryError:
        return _no_memory(limits)
    except Exception as error:  # whatever a file makes of the libraries that read it
        return {
            "detail": f"The file can't be loaded ({type(error).__name__}).",
            "hint": "The file is damaged; export it again.",
        }


def _run_once(session: Session) -> None:
    size = session.metadata.input
    shape = (_PICTURES, size.height, size.width, 3)
    session.run(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def _limit(limits: Limits) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.is_file():
        now = int(statm.read_text().split()[0]) * _PAGE_BYTES
        limit = now + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        # Where memory runs out all the same, let it be this process that goes.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    signal.alarm(limits.time_s)


def _refusal(status: int, limits: Limits) -> dict[str, Any]:
    """What the end of a process means; below 0 it is a signal."""
    if status == -signal.SIGALRM:
        return {
            "detail": f"The model was not loaded and run once within {limits.time_s} s.",
            "hint": "Check that it ends at all; a file that needs longer is too large.",
        }
    if status == -signal.SIGKILL:
        return _no_memory(limits)
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return {
        "detail": f"The model crashes ONNX Runtime ({how}).",
        "hint": "The file is damaged; export it again.",
    }


def _no_memory(limits: Limits) -> dict[str, Any]:
    return {
        "detail": "The model needs too much memory to load and run once; for a file of its size"
        f" the limit is {limits.memory_bytes >> 20} MiB, or what this machine has.",
        "hint": "Check its shapes.",
    }


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "bad_alloc" in text or "failed to allocate" in text:
            return True
        error = error.__cause__
    return False


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


if __name__ == "__main__":
    main()

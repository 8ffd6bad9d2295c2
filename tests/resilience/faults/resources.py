"""Disks that fill up, files and memory that run out."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.resilience.bench import Bench, Fault, NotHereError, Scene
from tests.resilience.service import Service, Way, wait_until
from tests.resilience.traffic import Terms

_MIB = 2**20
_OPEN_FILES = 160
_FLOOD = 400
_DISK_KIB = 1536
_BALLAST_MIB, _ROOM_MIB = 192, 160
_CUTS = Terms(cuts=True)


def log_full(bench: Bench) -> None:
    """The log lies on a full disk: nothing is logged, everything is answered."""
    full = Path("/dev/full")
    if not full.exists():
        raise NotHereError("there is no /dev/full")
    with full.open("wb") as device, bench.under_traffic(way=Way(stderr=device)) as scene:
        scene.repository.spoil(3, b"no model")  # what has to be logged with a trace, too
        scene.traffic.progress(200)


def files_may_not_grow(bench: Bench) -> None:
    """No file may grow, as with a quota: the log and the metrics that workers share."""
    way = Way(environment={"TMPDIR": str(bench.place())})
    with bench.under_traffic(workers=2, way=way, terms=_CUTS) as scene:
        for pid in (scene.service.process.pid, *scene.service.serving_pids):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
        _make_series(scene)
        _kill_one(scene)
        assert scene.service.get("/metrics")[0] == 200


def disk_full(bench: Bench) -> None:
    """The disk under the temporary folder fills up while workers keep their metrics there."""
    folder = bench.place()
    mount = f"mount -t tmpfs -o size={_DISK_KIB}k tmpfs {folder}"
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False
        ).returncode
    ):
        raise NotHereError("no file system can be mounted here (unshare -rm)")
    way = Way(
        environment={"TMPDIR": str(folder)},
        prefix=("unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"),
    )
    with bench.under_traffic(workers=2, way=way, terms=_CUTS) as scene:
        seen = Path(f"/proc/{scene.service.process.pid}/root{folder}")
        with contextlib.suppress(OSError), (seen / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        _make_series(scene)
        assert "SIGBUS" not in scene.service.text()
        _kill_one(scene)
        assert scene.service.get("/metrics")[0] == 200
        (seen / "filler").unlink()


def files_run_out(bench: Bench) -> None:
    """More connections than the process may have open: good clients are still answered."""
    way = Way(prepare=_few_files)
    terms = Terms(refusals=frozenset({"too_many_connections", "busy"}))
    with bench.under_traffic(way=way, terms=terms) as scene:
        for _ in range(bench.rounds(3, 1)):
            with _idle_connections(scene.service.port, _FLOOD):
                scene.repository.publish(2, f"2.{_}")
                time.sleep(2)
                scene.traffic.progress(50)
            wait_until(lambda tag=f"2.{_}": tag in scene.traffic.tags, "the version", 90)  # type: ignore[misc]


def memory_runs_out(bench: Bench) -> None:
    """There is no memory for a new version: the one before goes on, and later there is."""
    with bench.under_traffic(may_log="MemoryError|bad_alloc") as scene:
        pid = scene.service.process.pid
        limit = _address_space(pid) + _ROOM_MIB * _MIB
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        scene.repository.publish(2, "2.0", ballast_mib=_BALLAST_MIB)
        scene.service.wait_log("version 2 is not served")
        scene.traffic.progress(100)
        assert scene.traffic.tags == {"1.0"}
        scene.repository.remove(2)
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        scene.repository.publish(2, "2.1")
        wait_until(lambda: "2.1" in scene.traffic.tags, "the version", 60, scene.service)


def _make_series(scene: Scene) -> None:
    """Have metrics grow: other versions, other statuses, other routes."""
    for version in (2, 3):
        scene.repository.publish(version, f"{version}.0")
        wait_until(lambda tag=f"{version}.0": tag in scene.traffic.tags, "the version", 60)  # type: ignore[misc]
        scene.traffic.progress(50)
    for path in ("/none", "/healthz", "/v1/models", "/v1/models/none", "/docs", "/metrics"):
        for _ in range(4):
            scene.service.get(path)


def _kill_one(scene: Scene) -> None:
    """The next worker has to begin under these circumstances."""
    service = scene.service
    victim = service.serving_pids[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: _replaced(service, victim), "another worker", 60, service)
    service.wait_ready()
    scene.traffic.progress(100)


def _replaced(service: Service, victim: int) -> bool:
    now = service.serving_pids
    return len(now) == service.workers and victim not in now


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


@contextlib.contextmanager
def _idle_connections(port: int, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        yield


def _address_space(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


FAULTS = (
    Fault("log-full", "the log is on a full disk", log_full),
    Fault("quota", "no file may grow any more, then a worker dies", files_may_not_grow),
    Fault("disk-full", "the disk of the workers' metrics is full", disk_full),
    Fault("open-files", "a flood of connections and few open files", files_run_out),
    Fault("memory", "no memory for a new version", memory_runs_out),
)

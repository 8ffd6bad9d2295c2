"""The clock, the log's reader, the port, and what workers share."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
import threading

from tests.resilience.bench import Bench, Fault, NotHereError
from tests.resilience.service import Way, children, command, wait_until
from tests.resilience.traffic import Terms

_YEAR = re.compile(r"\b(\d{4})-\d\d-\d\d")
_YEAR_S = 365 * 24 * 3600
_JUMPS_S = (3600, -3600, 10 * _YEAR_S, -40 * _YEAR_S, 0)
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

/* The wall clock, moved by the seconds in a file. Other clocks are left alone. */
static volatile long long *moved_s;
static int (*real_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("MOVED_CLOCK"), O_RDONLY);
    void *at = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *moved_s, PROT_READ, MAP_SHARED, file, 0);
    moved_s = at == MAP_FAILED ? NULL : at;
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock) real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real_clock(clock, now);
    if (!failed && moved_s && clock == CLOCK_REALTIME) now->tv_sec += *moved_s;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def clock_jumps(bench: Bench) -> None:
    """The wall clock goes forth and back; deadlines, waits and looks go by another one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise NotHereError("a C compiler is needed to move the clock of one process")
    folder = bench.place()
    source, shim, moved = folder / "clock.c", folder / "clock.so", folder / "moved"
    source.write_text(_SHIM)
    build = [compiler, "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"]
    if subprocess.run(build, capture_output=True, check=False).returncode:
        raise NotHereError(f"{compiler} can't build a shared library")
    moved.write_bytes(struct.pack("q", 0))
    way = Way(environment={"LD_PRELOAD": str(shim), "MOVED_CLOCK": str(moved)})
    with bench.under_traffic(way=way) as scene:
        for number, seconds in enumerate(_JUMPS_S, 1):
            with moved.open("r+b") as file:
                file.write(struct.pack("q", seconds))
            scene.traffic.progress(50)
            scene.repository.publish(2, f"2.{number}")
            wait_until(
                lambda tag=f"2.{number}": tag in scene.traffic.tags,  # type: ignore[misc]
                "the version",
                60,
                scene.service,
            )
        years = set(_YEAR.findall(scene.service.text()))
        assert len(years) > 2, f"the clock has not moved: {years}"


def log_reader_gone(bench: Bench) -> None:
    """Who reads the log has ended: every line fails to be written (EPIPE), nothing else does."""
    reader, writer = os.pipe()
    try:
        with bench.under_traffic(way=Way(stderr=writer)) as scene:
            os.close(reader)
            reader = -1
            scene.repository.spoil(3, b"no model")
            scene.traffic.progress(200)
    finally:
        for each in (reader, writer):
            if each >= 0:
                os.close(each)


def log_reader_stalls(bench: Bench) -> None:
    """Who reads the log has stopped reading, and the pipe is full: nobody waits for that."""
    for workers in (0, 2)[: bench.rounds(2, 2)]:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        drained = threading.Thread(target=_drain, args=(reader,), daemon=True)
        try:
            with bench.under_traffic(workers=workers, way=Way(stderr=writer)) as scene:
                scene.repository.publish(2, "2.0")
                wait_until(lambda: "2.0" in scene.traffic.tags, "the version", 60, scene.service)
                scene.traffic.progress(300)
        finally:
            os.close(writer)
            drained.start()
            drained.join(10)


def port_taken(bench: Bench) -> None:
    """A second service on the same port ends with one line; the first is not disturbed."""
    with bench.under_traffic() as scene:
        for flags in ((), ("--workers", "2")):
            port = str(scene.service.port)
            models = str(scene.repository.root)
            second = subprocess.run(
                command("serve", "--models", models, "--port", port, *flags),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert second.returncode == 1, second
            assert "address already in use" in second.stderr.lower(), second.stderr
            assert len(second.stderr.splitlines()) == 1, second.stderr
            scene.traffic.progress(50)


def metrics_damaged(bench: Bench) -> None:
    """Files in which workers count are overwritten, cut short, removed; then a worker dies."""
    folder = bench.place()
    way = Way(environment={"TMPDIR": str(folder)})
    with bench.under_traffic(workers=2, way=way, terms=Terms(cuts=True)) as scene:
        service = scene.service
        wait_until(lambda: bool(list(folder.glob("*/*.db"))), "metrics files")
        damages = (b"\xff" * 65536, b"\x10\x00\x00\x00\x00\x00\x00\x00" + b"\xf0" * 64, b"\0" * 8)
        for damage in damages[: bench.rounds(3, 2)]:
            for file in folder.glob("*/*_0.db"):
                with file.open("r+b") as damaged:
                    damaged.write(damage)
            assert service.get("/metrics")[0] == 200
            scene.traffic.progress(50)
            victims = children(service.process.pid)
            for victim in victims:
                os.kill(victim, 9)
            wait_until(
                lambda gone=victims: len(set(service.serving_pids) - gone) == service.workers,  # type: ignore[misc]
                "other workers",
                60,
                service,
            )
            service.wait_ready()
            scene.traffic.progress(50)
            assert service.get("/metrics")[0] == 200
        shutil.rmtree(next(folder.glob("*/*.db")).parent)
        scene.traffic.progress(50)
        assert service.get("/metrics")[0] == 200


def _drain(reader: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(reader, 65536):
            pass
    os.close(reader)


FAULTS = (
    Fault("clock", "the wall clock jumps by hours and years", clock_jumps),
    Fault("log-gone", "the reader of the log is gone (EPIPE)", log_reader_gone),
    Fault("log-stalls", "the reader of the log stops reading", log_reader_stalls),
    Fault("port-taken", "another service is started on the port", port_taken),
    Fault("metrics-damaged", "the workers' files of metrics are damaged", metrics_damaged),
)

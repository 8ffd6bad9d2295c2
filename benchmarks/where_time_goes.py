"""Where the core-milliseconds of an image go, from the socket to the network and back.

    python benchmarks/where_time_goes.py --models models --model cifar10

Loads the real service with wrk (32 connections, one JPEG a request) and reads from /proc what each
of its threads used; beside it, each part alone: uvicorn with an app that does nothing, the decoder
in a loop, the session in a loop. What a part costs in the service beyond what it costs alone is
what threads, the interpreter's lock and cold caches add. Parts take turns over the rounds; medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from comparison import pictures
from comparison.load import Load, Target, require_wrk, with_wrk
from comparison.processes import Server, ServerError, free_port, running, scratch_folder

from service.engine.decode import decode_image
from service.engine.locate import find_model_file
from service.engine.session import Session, SessionOptions, available_cpus

_TICKS = os.sysconf("SC_CLK_TCK")
_CONNECTIONS = 32
_READY_S = 60
_BARE = """
import sys
import uvicorn
from service.api.connection import Connection

async def app(scope, receive, send):
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"115")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 115})

uvicorn.run(app, port=int(sys.argv[1]), http=Connection, ws="none", lifespan="off",
            log_level="warning", access_log=False, server_header=False, proxy_headers=False)
"""

Found = dict[str, float]


def main() -> None:
    """Print one line a part: core-milliseconds an image."""
    args = _parse()
    require_wrk()
    session = Session(find_model_file(args.model, args.models), SessionOptions("cpu", 1))
    bodies = pictures.draw(200, session.metadata.input.height)
    rounds: list[Found] = []
    with tempfile.TemporaryDirectory() as folder:
        files = tuple(_written(Path(folder), bodies))
        for _ in range(args.rounds):
            found = _alone(session, bodies, args.seconds)
            found |= _bare(files, args.seconds)
            found |= _service(args, files, args.seconds)
            rounds.append(found)
    for part in rounds[0]:
        values = [found[part] for found in rounds]
        spread = f"({min(values):.4g} to {max(values):.4g})"
        print(f"{part:<58} {statistics.median(values):>8.4g} {spread}")


def _alone(session: Session, bodies: list[bytes], seconds: float) -> Found:
    """The decoder and the session in loops, on all cores at once."""
    size = session.metadata.input
    batch = np.stack(
        [decode_image(body, size.height, size.width, size.resize) for body in bodies[:4]]
    )

    def decode() -> int:
        for body in bodies:
            decode_image(body, size.height, size.width, size.resize)
        return len(bodies)

    def run() -> int:
        session.run(batch)
        return len(batch)

    return {
        "decoding alone, one thread": _core_ms(decode, seconds / 2, 1),
        "the session alone, batches of 4, a thread a core": _core_ms(
            run, seconds / 2, available_cpus()
        ),
    }


def _core_ms(work: Callable[[], int], seconds: float, threads: int) -> float:
    """Core-milliseconds of one image, with so many threads at work."""
    work()

    def loop() -> float:
        started_s, images = time.perf_counter(), 0
        while time.perf_counter() - started_s < seconds:
            images += work()
        return images / (time.perf_counter() - started_s)

    with ThreadPoolExecutor(threads) as pool:
        rates = [task.result() for task in [pool.submit(loop) for _ in range(threads)]]
    return 1e3 * threads / sum(rates)


def _bare(files: tuple[Path, ...], seconds: float) -> Found:
    """HTTP with an app that does nothing."""
    port = free_port()
    with (
        scratch_folder() as folder,
        running([sys.executable, "-c", _BARE, str(port)], {}, folder, port) as server,
    ):
        target = Target(port, "/", {"Content-Type": "image/jpeg"}, files)
        load, used = _measured(server, target, seconds)
    return {"uvicorn with an app that does nothing": 1e3 * sum(used) / load.requests}


def _service(args: argparse.Namespace, files: tuple[Path, ...], seconds: float) -> Found:
    """The real thing, by threads."""
    port = free_port()
    program = str(Path(sys.executable).with_name("adaresnet"))
    command = [program, "serve", "--models", str(args.models), "--port", str(port), *args.serve]
    with scratch_folder() as folder, running(command, {}, folder, port) as server:
        path = f"/v1/classify?model={args.model}&top_k=1"
        target = Target(port, path, {"Content-Type": "image/jpeg"}, files)
        load, (user_s, system_s, others_s) = _measured(server, target, seconds)
    return {
        "the service's event loop, user": 1e3 * user_s / load.requests,
        "the service's event loop, system": 1e3 * system_s / load.requests,
        "the service's other threads": 1e3 * others_s / load.requests,
        "the load generator": 1e3 * load.used.client_s / load.requests,
        "images/s": load.requests / load.duration_s,
        "p50 ms": load.p50_ms or 0.0,
        "p99 ms": load.p99_ms or 0.0,
    }


def _measured(
    server: Server, target: Target, seconds: float
) -> tuple[Load, tuple[float, float, float]]:
    """Load it; and its seconds: user and system of the first thread, and all of the others."""
    deadline = time.monotonic() + _READY_S
    while True:
        server.check_alive()
        with contextlib.suppress(ServerError):  # it does not listen yet
            if not with_wrk(target, 1, 1).bad:
                break
        if time.monotonic() > deadline:
            raise ServerError(f"no right answer within {_READY_S} s: {server.log_tail()}")
        time.sleep(0.1)
    with_wrk(target, _CONNECTIONS, 1)
    before = _threads(server.process.pid)
    load = with_wrk(target, _CONNECTIONS, round(seconds))
    after = _threads(server.process.pid)
    return load, (after[0] - before[0], after[1] - before[1], after[2] - before[2])


def _threads(pid: int) -> tuple[float, float, float]:
    user = system = others = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        own = int(fields[11]) / _TICKS, int(fields[12]) / _TICKS
        if int(task.name) == pid:
            user, system = own
        else:
            others += sum(own)
    return user, system, others


def _written(folder: Path, bodies: list[bytes]) -> list[Path]:
    paths = [folder / f"{index}.jpg" for index in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)
    return paths


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=lambda text: Path(text).resolve(), default="models")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each part")
    parser.add_argument("serve", nargs="*", help="more arguments of 'adaresnet serve', behind --")
    return parser.parse_args()


if __name__ == "__main__":
    main()

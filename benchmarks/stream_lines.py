"""Memory of the service and of a client while 100,000 images go through one request of lines.

    python benchmarks/stream_lines.py                     # some two minutes
    python benchmarks/stream_lines.py --images 20000 --top-k 10
    python benchmarks/stream_lines.py --read-late         # a client that first sends everything

Needs Linux. A line of the request is a picture's file in base64, a line of the answer its classes.
Memory is that of the service and its children and of this process, as the kernel counts it (RSS),
sampled all along; the change over the last half is that of a fitted line.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import numpy as np
from comparison.machine import busy_cores, describe_machine
from comparison.pictures import draw
from comparison.processes import descendants
from own_service import MODELS, PATH, OwnService, memory_of, serving

_MIB = 2**20
_BLOCK_IMAGES = 128
_SAMPLE_S = 0.2
_FLAT_GOAL = 3.0  # per cent


def main() -> int:
    """Stream, and print what it took; returns 1 where an answer is wrong or memory grows."""
    args = _parse()
    print(f"{describe_machine()}; {busy_cores():.2f} cores busy with something else")
    with serving(args.models, args.serve) as service:
        size = service.model(args.model)["input"]
        lines = [
            json.dumps(base64.b64encode(picture).decode()).encode() + b"\n"
            for picture in draw(64, size["height"])
        ]
        list(_stream(args, service, lines, 10 * _BLOCK_IMAGES))  # warm up
        samples: list[tuple[float, float, float]] = []
        with _sampling(service, samples):
            started = time.perf_counter()
            answered = sum(1 for _ in _stream(args, service, lines, args.images))
            seconds = time.perf_counter() - started
    print(
        f"{answered} of {args.images} images answered in order, {answered / seconds:.0f} a second"
    )
    at, *columns = np.array(samples).T
    half = len(at) // 2
    flat = answered == args.images
    for who, mib in zip(("service", "client"), columns, strict=True):
        drift = (
            100 * np.polyfit(at[half:], mib[half:], 1)[0] * (at[-1] - at[half]) / mib[half:].mean()
        )
        flat = flat and abs(drift) <= _FLAT_GOAL
        print(
            f"{who}: {mib[0]:.1f} MiB at the start, at most {mib.max():.1f}, {mib[-1]:.1f} at the"
            f" end; {drift:+.2f} % over the last half (goal: within {_FLAT_GOAL:.0f} %)"
        )
    return int(not flat)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="model repository")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--read-late", action="store_true", help="send everything, then read")
    parser.add_argument("serve", nargs="*", help="arguments of 'adaresnet serve', behind --")
    return parser.parse_args()


def _stream(
    args: argparse.Namespace, service: OwnService, lines: list[bytes], count: int
) -> Iterator[int]:
    """Send images in one request, and give the index of each result.

    Raises:
        SystemExit: A result is missing, out of order, or an error.
    """
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(
            f"POST {PATH}?model={args.model}&top_k={args.top_k} HTTP/1.1\r\nHost: localhost\r\n"
            "Accept: application/x-ndjson\r\nContent-Type: application/x-ndjson\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        sender = threading.Thread(target=_send, args=(connection, lines, count), daemon=True)
        sender.start()
        if args.read_late:
            sender.join()
        response = HTTPResponse(connection)
        response.begin()
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {response.read()[:300]!r}")
        for index in range(count):
            line = response.readline()
            if json.loads(line or b"{}").get("index") != index or b'"error"' in line:
                raise SystemExit(f"line {index} is {line[:300]!r}")
            yield index
        sender.join()


def _send(connection: socket.socket, lines: list[bytes], count: int) -> None:
    endless = itertools.cycle(lines)
    for start in range(0, count, _BLOCK_IMAGES):
        block = b"".join(itertools.islice(endless, min(_BLOCK_IMAGES, count - start)))
        connection.sendall(b"%x\r\n%s\r\n" % (len(block), block))
    connection.sendall(b"0\r\n\r\n")


@contextlib.contextmanager
def _sampling(service: OwnService, samples: list[tuple[float, float, float]]) -> Iterator[None]:
    """Note time, memory of the service and memory of this process, MiB, while the context lasts."""
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(_SAMPLE_S):
            pids = [service.pid, *descendants(service.pid)]
            served = sum(memory_of(pid, "VmRSS") for pid in pids)
            own = memory_of(os.getpid(), "VmRSS")
            samples.append((time.perf_counter(), served / _MIB, own / _MIB))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())

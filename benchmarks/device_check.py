"""Does every model run right on a device, and how fast?

    make device-check DEVICE=cuda

benchmarks/gpu_serving.py says more of a GPU machine, and how the service does there.
Loads each model of a repository on the device, replays its golden images there, and times batches
beside the CPU in turns, so that the ratio is of one run. Ends with status 1 and the reason where
the device can't be used or a model fails.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from service.engine.devices import parse_devices
from service.engine.errors import ServiceError
from service.engine.golden import replay_golden_images
from service.engine.session import Session, SessionOptions, available_cpus

_BATCHES = (1, 8, 32, 128)
_ROUNDS = 7


def main() -> int:
    """Print one block a model; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--device", default="cuda", help="cpu, cuda, cuda:1, tensorrt, ...")
    args = parser.parse_args()
    try:
        parse_devices(args.device)
    except ValueError as error:
        parser.error(str(error))
    for path in sorted(args.models.glob("*/*/model.onnx")):
        try:
            session = Session(path, SessionOptions(args.device, available_cpus()))
            difference = replay_golden_images(session)
        except ServiceError as error:
            print(f"{path}: {error.detail} {error.hint}", file=sys.stderr)
            return 1
        print(f"{path}: {session.provider}, golden images differ by {difference:.2g} at most")
        _compare(session, Session(path, SessionOptions("cpu", available_cpus())))
    return 0


def _compare(session: Session, on_cpu: Session) -> None:
    size = session.metadata.input
    rng = np.random.default_rng(0)
    for count in _BATCHES:
        images = rng.integers(0, 256, (count, size.height, size.width, 3), dtype=np.uint8)
        for one in (session, on_cpu):
            one.run(images)  # the first run of a size prepares it
        rates = [
            [count / _seconds(one, images) for one in (session, on_cpu)] for _ in range(_ROUNDS)
        ]
        ours, cpu = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(row[0] / row[1] for row in rates)
        print(f"  batch {count:>3}: {ours:>8.0f} images/s; CPU {cpu:>8.0f}; ratio {ratio:.2f}")


def _seconds(session: Session, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
    started = time.perf_counter()
    session.run(images)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())

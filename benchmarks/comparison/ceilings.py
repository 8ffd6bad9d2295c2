"""What no server can pass: ONNX Runtime alone, and with Pillow's decoding before it.

    python -m comparison.ceilings MODEL SECONDS PICTURE...

A process of its own, which takes its turn like a server. Prints one JSON object: the best rate of
ONNX Runtime over batch sizes and arrangements of threads, which that was, and the core-seconds that
decoding a picture takes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from comparison.bodies import Pixels
from comparison.stock import decode

_SMALL_PX = 64
_SMALL_BATCHES, _LARGE_BATCHES = (8, 16, 32, 64, 128), (1, 4, 8, 16)


def bound(decode_s: float, inference_rate: float, cores: int) -> float:
    """Images/s when all cores do nothing but decode and run.

    Args:
        decode_s: Core-seconds to decode an image.
        inference_rate: Images/s of ONNX Runtime with all cores.
        cores: Of the machine.
    """
    inference_s = cores / inference_rate
    return cores / (decode_s + inference_s)


def main() -> None:
    """Measure and print."""
    model, seconds = Path(sys.argv[1]), float(sys.argv[2])
    files = [Path(name).read_bytes() for name in sys.argv[3:]]
    cores = len(os.sched_getaffinity(0))
    px = int(_session(model, 1).get_inputs()[0].shape[1])
    decode_s = _decode_seconds(files, px, seconds)
    images = np.stack([decode(data, px) for data in files[: max(_SMALL_BATCHES)]])
    rates = {
        f"{arrangement}, batch {batch}": rate
        for batch in (_SMALL_BATCHES if px < _SMALL_PX else _LARGE_BATCHES)
        for arrangement, rate in _rates(model, images[:batch], cores, seconds).items()
    }
    best = max(rates, key=rates.__getitem__)
    found = {
        "raw rate": rates[best],
        "decode_s": decode_s,
        "bound rate": bound(decode_s, rates[best], cores),
    }
    print(json.dumps({"figures": found, "best": best, "all": rates}))


def _rates(model: Path, images: Pixels, cores: int, seconds: float) -> dict[str, float]:
    one = _session(model, cores)
    several = [_session(model, 1) for _ in range(cores)]
    return {
        f"one session of {cores} threads": _rate([_runner(one, images)], len(images), seconds),
        f"{cores} sessions of one thread": _rate(
            [_runner(session, images) for session in several], len(images), seconds
        ),
    }


def _session(model: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _runner(session: ort.InferenceSession, images: Pixels) -> Callable[[], None]:
    def run() -> None:
        session.run(["probabilities"], {"images": images})

    return run


def _rate(runners: list[Callable[[], None]], batch: int, seconds: float) -> float:
    """Images/s of threads that each run without a pause."""
    for run in runners:
        run()  # the first run of a size prepares it
    counts = [0] * len(runners)
    started = time.perf_counter()

    def work(index: int) -> None:
        while time.perf_counter() - started < seconds:
            runners[index]()
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(runners))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * batch / (time.perf_counter() - started)


def _decode_seconds(files: list[bytes], px: int, seconds: float) -> float:
    done, began = 0, time.thread_time()
    while time.thread_time() - began < seconds:
        decode(files[done % len(files)], px)
        done += 1
    return (time.thread_time() - began) / done


if __name__ == "__main__":
    main()

"""What fp16 and int8 gain or cost on this machine's CPU, beside fp32.

    python benchmarks/precisions.py --network resnet20 fast8 wrn-16-4

Times the three graphs of each network in turns, so that the ratios are of one run, and prints
images/s and the ratio to fp32: median and range over the rounds. Weights are random: speed does not
depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from service.engine.session import Session, SessionOptions, available_cpus
from service.metadata import Input, ModelMetadata
from training.export.fold import FLOAT16, fold_network
from training.export.fuse import fuse_network
from training.export.graph import build_graph, with_metadata
from training.export.quantize import quantize
from training.networks.network import NetworkOptions
from training.networks.registry import build_network

_RUNS = 5


def main() -> None:
    """Print one line a network, batch size and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=["resnet20", "fast8", "wrn-16-4"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--image-px", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count CPU time and not the clock's, for a machine that has other work; one thread",
    )
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    threads = 1 if args.cpu_time else args.threads
    rng = np.random.default_rng(0)
    for network in args.network:
        sessions = _sessions(network, args.image_px, threads)
        for count in args.batch_size:
            shape = (count, args.image_px, args.image_px, 3)
            images = rng.integers(0, 256, shape, dtype=np.uint8)
            rates = _rates(sessions, images, args.rounds, clock)
            for precision, measured in rates.items():
                ratios = [a / b for a, b in zip(measured, rates["fp32"], strict=True)]
                print(
                    f"{network:<12} batch {count:>3}  {precision}"
                    f" {statistics.median(measured):>9.0f} images/s, ratio"
                    f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    flush=True,
                )


def _sessions(name: str, px: int, threads: int) -> dict[str, Session]:
    torch.manual_seed(0)
    network = build_network(name, NetworkOptions(3, 10, px)).eval()
    fused = fuse_network(network, [0.5] * 3, [0.25] * 3)
    size = Input(height=px, width=px)
    graph = build_graph(fold_network(fused), size)
    images = torch.randint(0, 256, (64, px, px, 3), dtype=torch.uint8)
    graphs = {
        "fp32": graph,
        "fp16": build_graph(fold_network(fused, FLOAT16), size, half=True),
        "int8": quantize(graph, images),
    }
    metadata = ModelMetadata(labels=[str(index) for index in range(10)], input=size)
    options = SessionOptions("cpu", threads)
    return {p: Session(with_metadata(each, metadata), options) for p, each in graphs.items()}


def _rates(
    sessions: dict[str, Session],
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    for session in sessions.values():
        session.run(images)  # the first run of a size prepares it
    rates: dict[str, list[float]] = {precision: [] for precision in sessions}
    for _ in range(rounds):
        for precision, session in sessions.items():
            started = clock()
            for _ in range(_RUNS):
                session.run(images)
            rates[precision].append(_RUNS * len(images) / (clock() - started))
    return rates


if __name__ == "__main__":
    main()

"""Does the Python client's memory stay flat, however many images it streams?

    python benchmarks/client_memory.py                    # 100,000 images, some minutes
    python benchmarks/client_memory.py --images 1000000 --size 32
    python benchmarks/client_memory.py --asyncio --kind array

Needs Linux. Starts ``adaresnet serve`` over the shipped models, and streams images to it from a
generator in this process, whose resident memory (RSS, as the kernel counts it) is sampled on the
way. Fails where the highest sample of the last half is more than 5 % above the highest of the
second tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from comparison.machine import busy_cores, describe_machine
from comparison.pictures import draw
from own_service import MODELS, memory_of, serving

from service.client import AsyncClient, Client, ImageLike, Result

_MIB = 2**20
_SAMPLES = 200
_GOAL = 5.0  # per cent


class Samples:
    """Resident memory of this process while results come."""

    def __init__(self, images: int) -> None:
        """Take one every so many images."""
        self.rss_bytes: list[int] = []
        self._images = images
        self._done = 0

    def take(self, result: Result) -> None:
        """One more result is there."""
        if result.error is not None:
            raise SystemExit(f"an image failed: {result.error}")
        if result.index != self._done:
            raise SystemExit(f"result {result.index} came in the place of {self._done}")
        self._done += 1
        if self._done * _SAMPLES // self._images > len(self.rss_bytes):
            self.rss_bytes.append(memory_of(os.getpid(), "VmRSS"))

    def growth(self) -> float:
        """Per cent, from the second tenth to the last half."""
        rss = self.rss_bytes
        early, late = max(rss[len(rss) // 10 : len(rss) // 5]), max(rss[len(rss) // 2 :])
        return 100 * (late / early - 1)


def main() -> int:
    """Stream, and print what it took; returns 1 where memory grew."""
    args = _parse()
    samples = Samples(args.images)
    print(f"{describe_machine()}; {busy_cores():.2f} cores busy with something else")
    before = memory_of(os.getpid(), "VmRSS")
    with serving(args.models, args.serve) as service:
        url = f"http://127.0.0.1:{service.port}"
        started_s = time.perf_counter()
        if args.asyncio:
            asyncio.run(_stream_async(url, args, samples))
        else:
            _stream(url, args, samples)
        took_s = time.perf_counter() - started_s
    rss = samples.rss_bytes
    tenths = [max(rss[len(rss) * n // 10 : len(rss) * (n + 1) // 10]) / _MIB for n in range(10)]
    print(f"{args.images} images ({args.kind}, {args.size} px) in {took_s:.0f} s:", end=" ")
    print(f"{args.images / took_s:.0f} images/s")
    print(f"RSS {before / _MIB:.1f} MiB before; highest of each tenth of the way, MiB:")
    print(" ".join(f"{each:.1f}" for each in tenths))
    print(f"growth from the second tenth to the last half: {samples.growth():+.2f} %")
    return int(samples.growth() > _GOAL)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="model repository")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=32, help="32: 1 kB JPEGs; 64 or more: 50 kB")
    parser.add_argument("--kind", choices=("file", "array"), default="file")
    parser.add_argument("--asyncio", action="store_true", help="AsyncClient instead of Client")
    parser.add_argument("serve", nargs="*", help="arguments of 'adaresnet serve', behind --")
    args = parser.parse_args()
    if args.images < _SAMPLES:
        parser.error(f"--images must be at least {_SAMPLES}")
    return args


def _images(args: argparse.Namespace) -> Iterator[ImageLike]:
    """Each image is an object of its own, as it is where images come from files."""
    if args.kind == "file":
        files = draw(64, args.size)
        for file in itertools.islice(itertools.cycle(files), args.images):
            yield bytearray(file)
        return
    pixels = np.random.default_rng(0).integers(0, 256, (args.size, args.size, 3), np.uint8)
    for _ in range(args.images):
        yield pixels.copy()


def _stream(url: str, args: argparse.Namespace, samples: Samples) -> None:
    with Client(url) as client:
        for result in client.classify_many(_images(args), model=args.model, top_k=1):
            samples.take(result)


async def _stream_async(url: str, args: argparse.Namespace, samples: Samples) -> None:
    async with AsyncClient(url) as client:
        async for result in client.classify_many(_images(args), model=args.model, top_k=1):
            samples.take(result)


if __name__ == "__main__":
    sys.exit(main())

"""What jpeg_draft gains in time and costs in accuracy.

    python benchmarks/draft_accuracy.py --data cifar10 --model models/cifar10/1/model.onnx

Time: pictures drawn here, decoded with and without draft in turns, as ratios of CPU time.
Accuracy: test pictures are enlarged (bicubic) to large JPEGs, which are decoded, classified and
compared with their labels. Both sides see the same files, so the difference is a paired one: its
interval is a bootstrap over pictures, its p-value McNemar's exact test on those where one side
only is right.
"""

from __future__ import annotations

import argparse
import functools
import io
import math
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.engine.decode import DecodeOptions, decode_image
from service.engine.reduction import reduction_of
from service.engine.session import Session, SessionOptions, available_cpus
from service.metadata import Resize
from training.data.dataset import load_data

_DRAFT = DecodeOptions(jpeg_draft=True)
_FULL = DecodeOptions()
_SIZES = ((500, 375), (1024, 768), (4000, 3000))
_BATCH = 100


def main() -> None:
    """Print speed by size, then accuracy by enlarged side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder or hub name, as for training; none: time only")
    parser.add_argument("--model", type=Path, default=Path("models/cifar10/1/model.onnx"))
    parser.add_argument("--images", type=int, default=2000, help="test pictures, from the first")
    parser.add_argument("--side-px", type=int, nargs="+", default=[512, 640, 768, 1024])
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    for picture in _SIZES:
        for side in (224, 32):
            _print_speed(picture, side, args.quality, args.rounds)
    if args.data is None:
        return
    session = Session(args.model, SessionOptions("cpu", available_cpus()))
    test = load_data(args.data, session.metadata.input.height, Resize(), seed=0).test.in_memory()
    pixels = test.pixels[: args.images].numpy()
    labels = test.labels[: args.images].numpy()
    for side in args.side_px:
        _print_accuracy(session, pixels, labels, side, args.quality)


def _print_speed(picture: tuple[int, int], side: int, quality: int, rounds: int) -> None:
    data = _jpeg(_drawn(*picture), quality)
    taken: dict[DecodeOptions, list[float]] = {_FULL: [], _DRAFT: []}
    repeats = max(1, 500_000 // math.prod(picture))
    for _ in range(rounds):
        for options, times in taken.items():
            work = functools.partial(decode_image, data, side, side, Resize(), options=options)
            since = time.process_time()
            for _ in range(repeats):
                work()
            times.append((time.process_time() - since) / repeats)
    ratios = [full / draft for full, draft in zip(taken[_FULL], taken[_DRAFT], strict=True)]
    print(
        f"{picture[0]:>4} x {picture[1]:<4} to {side:>3}:"
        f" 1/{reduction_of(picture, (side, side), Resize())},"
        f" {1e3 * statistics.median(taken[_FULL]):>6.2f} ms in full,"
        f" {1e3 * statistics.median(taken[_DRAFT]):>6.2f} ms with draft,"
        f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def _print_accuracy(
    session: Session,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    side: int,
    quality: int,
) -> None:
    size = session.metadata.input
    found: dict[DecodeOptions, list[NDArray[np.int64]]] = {_FULL: [], _DRAFT: []}
    for first in range(0, len(pixels), _BATCH):
        files = [_jpeg(_enlarged(each, side), quality) for each in pixels[first : first + _BATCH]]
        for options, classes in found.items():
            decoded = [
                decode_image(data, size.height, size.width, size.resize, options=options)
                for data in files
            ]
            classes.append(session.run(np.stack(decoded)).logits.argmax(axis=1))
    full, draft = (np.concatenate(found[options]) for options in (_FULL, _DRAFT))
    right_full, right_draft = full == labels, draft == labels
    gained = int((right_draft & ~right_full).sum())
    lost = int((right_full & ~right_draft).sum())
    low, high = _bootstrap(right_draft.astype(np.int8) - right_full)
    by = reduction_of((side, side), (size.width, size.height), size.resize)
    print(
        f"{side} px, 1/{by}, {len(labels)} pictures: {right_full.mean():.2%} right in full,"
        f" {right_draft.mean():.2%} with draft; draft gains {gained} and loses {lost},"
        f" {100 * (gained - lost) / len(labels):+.2f} points (95%: {100 * low:+.2f} to"
        f" {100 * high:+.2f}; McNemar p = {_mcnemar(gained, lost):.2f}); same class for"
        f" {(full == draft).mean():.2%}",
        flush=True,
    )


def _bootstrap(differences: NDArray[np.int8]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(differences), (2000, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value: were gains and losses equally likely?"""
    count = gained + lost
    tail = sum(math.comb(count, each) for each in range(min(gained, lost) + 1))
    return float(min(1.0, 2 * tail / 2**count))


def _enlarged(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def _drawn(width: int, height: int) -> Image.Image:
    """Blotches with some noise, which take a photograph's share of bits."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noisy = smooth + rng.normal(0, 4, smooth.shape).astype(np.float32)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


if __name__ == "__main__":
    main()

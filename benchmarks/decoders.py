r"""Candidates for decoding JPEGs beside Pillow: speed, threads, pixels, what they cost to load.

    python -m venv /tmp/decoders
    /tmp/decoders/bin/pip install pillow simplejpeg PyTurboJPEG pyvips pyvips-binary \
        opencv-python-headless imagecodecs psutil
    /tmp/decoders/bin/python benchmarks/decoders.py

Needs nothing of the project. Pictures are drawn here from a seed. Candidates take turns, so that
the ratios are of one run; what is printed are medians over the rounds. What is not installed is
named as absent; PyTurboJPEG also needs a libturbojpeg 3 of the system.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Decode = Callable[[bytes], Pixels]


@dataclass(frozen=True)
class Candidate:
    """A package that decodes JPEGs.

    Attributes:
        module: What is imported.
        packages: What is installed for it.
        build: Makes the decoder, RGB out, from the imported module.
    """

    module: str
    packages: tuple[str, ...]
    build: Callable[[Any], Decode]


def _pillow(_: Any) -> Decode:
    def decode(data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))

    return decode


def _opencv(cv2: Any) -> Decode:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    cv2.setNumThreads(1)
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _turbojpeg(module: Any) -> Decode:
    decoder = module.TurboJPEG()
    return lambda data: decoder.decode(data, pixel_format=module.TJPF_RGB)


def _pyvips(pyvips: Any) -> Decode:
    def decode(data: bytes) -> Pixels:
        image = pyvips.Image.jpegload_buffer(data)
        return np.asarray(image.colourspace("srgb").numpy())

    return decode


CANDIDATES = {
    "pillow": Candidate("PIL.Image", ("pillow",), _pillow),
    "simplejpeg": Candidate("simplejpeg", ("simplejpeg",), lambda module: module.decode_jpeg),
    "opencv": Candidate("cv2", ("opencv-python-headless",), _opencv),
    "imagecodecs": Candidate(
        "imagecodecs",
        ("imagecodecs",),
        lambda module: lambda data: module.jpeg8_decode(data, outcolorspace="RGB"),
    ),
    "pyvips": Candidate("pyvips", ("pyvips", "pyvips-binary"), _pyvips),
    "pyturbojpeg": Candidate("turbojpeg", ("PyTurboJPEG",), _turbojpeg),
}


def main() -> None:
    """Print four tables: cost, speed, threads, pixels."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--quality", type=int, default=85)
    args = parser.parse_args()
    decoders = dict(_installed())
    _print_cost(decoders)
    _print_speed(decoders, args.rounds, args.quality)
    _print_threads(decoders, args.rounds, args.quality)
    _print_pixels(decoders)


def draw(width: int, height: int, seed: int = 0) -> Image.Image:
    """Waves, edges and some noise: a picture that takes a photograph's share of bits."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:height, 0:width].astype(np.float32)
    side = min(width, height)
    planes = [
        np.sin(column * 9 / side * (1 + rng.random()) + k)
        + np.cos(row * 7 / side * (1 + rng.random()) - k)
        for k in range(3)
    ]
    edges = ((row * 5 // side + column * 5 // side) % 2)[..., None] * 50
    noise = rng.normal(0, 5, (height, width, 3))
    pixels = 100 + 45 * np.stack(planes, axis=-1) + edges + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: Any) -> bytes:
    """The picture as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _installed() -> Iterator[tuple[str, Decode]]:
    for name, candidate in CANDIDATES.items():
        try:
            yield name, candidate.build(importlib.import_module(candidate.module))
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{name:<12} absent: {str(error).splitlines()[0]}")


def _print_cost(decoders: dict[str, Decode]) -> None:
    print(f"\n{'':<12} {'version':>10} {'installed':>10} {'import':>9} {'memory':>9}  licence")
    for name in decoders:
        candidate = CANDIDATES[name]
        found = [importlib.metadata.distribution(package) for package in candidate.packages]
        files = [Path(str(each.locate_file(file))) for each in found for file in each.files or ()]
        size = sum(file.stat().st_size for file in files if file.is_file())
        kinds = {_licence(each.metadata) for each in found}
        took_ms, memory_mib = _import_cost(candidate.module)
        print(
            f"{name:<12} {found[0].version:>10} {size / 2**20:>6.1f} MiB {took_ms:>6.0f} ms"
            f" {memory_mib:>5.1f} MiB  {', '.join(sorted(kinds))}"
        )


def _licence(metadata: Any) -> str:
    return str(metadata["License-Expression"] or metadata["License"])


def _import_cost(module: str) -> tuple[float, float]:
    """Milliseconds and MiB of importing a module in a process that has NumPy; medians of five."""
    script = (
        "import time, psutil, numpy; own = psutil.Process();"
        "before, since = own.memory_info().rss, time.perf_counter();"
        f"import {module};"
        "print((time.perf_counter() - since) * 1e3, (own.memory_info().rss - before) / 2**20)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    took, memory = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
    return statistics.median(took), statistics.median(memory)


def _print_speed(decoders: dict[str, Decode], rounds: int, quality: int) -> None:
    for width, height, side in ((32, 32, 32), (224, 224, 224), (500, 375, 224), (1024, 768, 224)):
        data = encode(draw(width, height), quality=quality)
        repeats = max(1, 200_000 // (width * height))
        print(f"\n{width} x {height}, {len(data)} bytes; pictures/s of one core, and beside Pillow")
        works: dict[str, Callable[[], object]] = {}
        for name, decode in decoders.items():
            works[name] = functools.partial(decode, data)
            works[f"{name}, to {side}"] = functools.partial(_sized, name, decode, data, side)
        times = _in_turns(works, rounds, repeats)
        for name, taken in times.items():
            kind = f", to {side}" if "," in name else ""
            ratios = [a / b for a, b in zip(times[f"pillow{kind}"], taken, strict=True)]
            print(
                f"  {name:<22} {1 / statistics.median(taken):>8.0f}/s"
                f" {statistics.median(ratios):>6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
            )


def _sized(name: str, decode: Decode, data: bytes, side: int) -> Pixels:
    """Decoded and brought to a network's size by Pillow, without needless copies."""
    if name == "pillow":
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(_cropped(image, side))
    pixels = decode(data)
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(_cropped(Image.fromarray(pixels), side))


def _cropped(image: Image.Image, side: int) -> Image.Image:
    kept = min(image.size)
    left, top = (image.width - kept) / 2, (image.height - kept) / 2
    box = (left, top, left + kept, top + kept)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def _in_turns(
    works: dict[str, Callable[[], object]], rounds: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds of CPU time a call, by round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            since = time.process_time()
            for _ in range(repeats):
                work()
            times[name].append((time.process_time() - since) / repeats)
    return times


def _print_threads(decoders: dict[str, Decode], rounds: int, quality: int) -> None:
    """How long another thread stands still: tells of the GIL even where cores are busy."""
    data = encode(draw(2048, 1536), quality=quality)
    print("\n2048 x 1536: longest pause of another thread, of the time of decoding (1: GIL held)")
    with ThreadPoolExecutor(1) as pool:
        for name, decode in decoders.items():
            shares = []
            for _ in range(rounds):
                since = last = time.perf_counter()
                working, longest = pool.submit(decode, data), 0.0
                while not working.done():
                    time.sleep(0.0002)
                    longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
                shares.append(longest / (time.perf_counter() - since))
            print(f"  {name:<12} {statistics.median(shares):.2f}")


def _kinds() -> Iterator[tuple[str, list[bytes]]]:
    """JPEGs of each kind, five sizes each, most of them odd."""
    sizes = ((32, 32), (1, 1), (33, 57), (61, 45), (120, 91))
    pictures = [draw(*size, seed) for seed, size in enumerate(sizes)]
    exif = Image.Exif()
    exif[0x0112] = 6
    for label, sampling in (("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)):
        yield label, [encode(each, subsampling=sampling) for each in pictures]
        yield (
            f"{label} progressive",
            [encode(each, subsampling=sampling, progressive=True) for each in pictures],
        )
    yield "grey", [encode(each.convert("L")) for each in pictures]
    yield "restart markers", [encode(each, restart_marker_blocks=2) for each in pictures]
    yield "colour profile", [encode(each, icc_profile=bytes(200)) for each in pictures]
    yield "EXIF, not applied", [encode(each, exif=exif) for each in pictures]
    yield "Adobe, RGB", [encode(each, keep_rgb=True, subsampling=0) for each in pictures]
    yield "CMYK", [encode(each.convert("CMYK")) for each in pictures]
    yield "half of it", [data[: len(data) * 2 // 3] for data in map(encode, pictures[2:])]


def _print_pixels(decoders: dict[str, Decode]) -> None:
    print("\nPixels beside Pillow's: largest difference, share of values that differ")
    others = [name for name in decoders if name != "pillow"]
    print(f"  {'':<20}" + "".join(f"{name:>18}" for name in others))
    for kind, files in _kinds():
        cells = [_difference(decoders["pillow"], decoders[name], files) for name in others]
        print(f"  {kind:<20}" + "".join(f"{cell:>18}" for cell in cells))


def _difference(pillow: Decode, other: Decode, files: list[bytes]) -> str:
    worst, unequal, values = 0, 0, 0
    for data in files:
        try:
            ours = pillow(data)
        except OSError:
            ours = None
        try:
            theirs = other(data)
        except Exception:
            theirs = None
        if ours is None or theirs is None:
            return "both refuse" if ours is theirs else "one refuses"
        apart = np.abs(ours.astype(int) - (theirs if theirs.ndim == 3 else theirs[..., None]))
        worst, unequal, values = (
            max(worst, int(apart.max())),
            unequal + int(np.count_nonzero(apart)),
            values + apart.size,
        )
    return "equal" if not worst else f"{worst}, {100 * unequal / values:.1f} %"


if __name__ == "__main__":
    main()

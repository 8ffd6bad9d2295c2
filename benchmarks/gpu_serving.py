"""Everything that has to be known of a GPU machine, in one run, as a section of Markdown.

    python benchmarks/gpu_serving.py                        # on a machine with a GPU, some minutes
    python benchmarks/gpu_serving.py --device cuda:0,cuda:1
    python benchmarks/gpu_serving.py --device cpu --quick   # the same steps without one

Golden images on the device; the network alone, run in every way that the service could run it
(plain, buckets, IO binding, CUDA graphs, lanes, TensorRT where it is installed), with the models
of the repository and, where PyTorch is, a ResNet-50 in float32 and float16; then the real service
over HTTP: one request of many images beside the network alone (the goal is 0.9 of it), single
JPEGs over 64 connections where wrk is, and which threads were busy meanwhile. A step that fails
is reported with its reason, and ends the run with status 1 once all others are through.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
from comparison.bodies import NPY, RAW, Images
from comparison.load import Target, with_threads, with_wrk
from comparison.machine import describe_machine
from comparison.pictures import draw
from comparison.processes import ServerError
from gpu_service import Profile, Served, profile, serve
from gpu_variants import (
    Checked,
    Pixels,
    Variant,
    check,
    first_device,
    images_per_s,
    tensorrt_variants,
    variants,
    write_resnet50,
)

from service.engine.cuda_driver import gpu_name
from service.engine.devices import Device, parse_devices
from service.engine.errors import ServiceError
from service.engine.gpu import GpuOptions
from service.engine.providers import built_in

_GOAL = 0.9
_SMALL_PX = 64


@dataclass
class Report:
    """What is written, and whether anything failed."""

    lines: list[str] = field(default_factory=list)
    failed: bool = False

    def say(self, text: str = "") -> None:
        """Write a line, and show it at once."""
        self.lines.append(text)
        print(text, flush=True)

    def fail(self, step: str, error: Exception) -> None:
        """Write that a step failed, and why."""
        reason = f"{error.detail} {error.hint}" if isinstance(error, ServiceError) else str(error)
        self.failed = True
        self.say(f"**{step} failed**: {reason or type(error).__name__}")
        self.say()


@dataclass(frozen=True)
class Effort:
    """How long everything takes.

    Attributes:
        seconds: Of each measurement.
        batches: Sizes of the network's runs.
        images: Of a large request.
    """

    seconds: float
    batches: tuple[int, ...]
    images: int


def main() -> int:
    """Run all steps; returns the exit status."""
    args = _parse()
    effort = Effort(0.3, (1, 8), 64) if args.quick else Effort(2.0, (1, 8, 32, 64, 256), 4096)
    report = Report()
    report.say("## On a GPU")
    report.say()
    report.say(_about(args.device))
    report.say()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        for path in _collect(args.models, repository, args.quick, report):
            try:
                _one_model(path, args.device, effort, report)
            except (ServiceError, ServerError, OSError) as error:
                report.fail(path.parts[-3], error)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(report.lines) + "\n")
    print(f"wrote {args.output}", file=sys.stderr)
    return int(report.failed)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="as the service's setting")
    parser.add_argument("--models", type=Path, default=Path("models"), help="model repository")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run; its figures mean nothing"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/gpu/section.md"))
    return parser.parse_args()


def _about(device: str) -> str:
    first = first_device(device)
    gpu = gpu_name(first.index) if first.kind != "cpu" else None
    return (
        f"Device `{device}`{f' ({gpu})' if gpu else ''}; {describe_machine()}; ONNX Runtime"
        f" {ort.__version__}, CUDA {getattr(ort, 'cuda_version', '') or 'none'}. Images/s."
    )


def _collect(models: Path, repository: Path, quick: bool, report: Report) -> list[Path]:
    """Copies of the models in a repository of their own, smallest first."""
    for path in sorted(models.glob("*/*/model.onnx")):
        target = repository / path.relative_to(models)
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    if quick or importlib.util.find_spec("torch") is None:
        report.say(f"Without ResNet-50: {'a quick run' if quick else 'PyTorch is not installed'}.")
        report.say()
    else:
        write_resnet50(repository)
    found = sorted(repository.glob("*/*/model.onnx"), key=lambda path: path.stat().st_size)
    return found[:1] if quick else found


def _one_model(path: Path, device: str, effort: Effort, report: Report) -> None:
    checked = check(path, device)
    name = path.parts[-3]
    golden = "none" if checked.difference is None else f"differ by {checked.difference:.2g}"
    report.say(f"### {name}, {checked.width} px")
    report.say()
    report.say(f"`{checked.provider}`; golden images: {golden}.")
    report.say()
    best = _network_table(checked, device, effort, report)
    _service(name, path.parents[2], checked, device, effort, best, report)


def _network_table(checked: Checked, device: str, effort: Effort, report: Report) -> float:
    """Time every variant on the first device; returns what all devices would reach at best."""
    report.say("| the network alone | " + " | ".join(f"batch {n}" for n in effort.batches) + " |")
    report.say("| --- |" + " ---: |" * len(effort.batches))
    options = GpuOptions(max_batch_size=max(effort.batches))
    first = first_device(device)
    best = 0.0
    # With TensorRT, CUDA comes first all the same, to compare with.
    alone = Device("cuda", first.index) if first.kind == "tensorrt" else first
    for variant in variants(checked.path, alone, options):
        rates = _rates(variant, checked, effort)
        report.say(_row(variant.name, rates))
        best = max(best, *rates)
    if first.kind != "cpu" and built_in("tensorrt"):
        try:
            for variant in tensorrt_variants(checked.path, first.index, options):
                report.say(_row(variant.name, _rates(variant, checked, effort)))
        except ServiceError as error:
            report.say(f"| TensorRT: {error.detail} |" + " |" * len(effort.batches))
    report.say()
    return best * len(parse_devices(device).each)


def _rates(variant: Variant, checked: Checked, effort: Effort) -> list[float]:
    rng = np.random.default_rng(0)
    shape = (max(effort.batches), checked.height, checked.width, 3)
    images: Pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    return [images_per_s(variant, images[:count], effort.seconds) for count in effort.batches]


def _row(name: str, rates: list[float]) -> str:
    return f"| {name} | " + " | ".join(f"{rate:,.0f}" for rate in rates) + " |"


def _service(
    name: str,
    repository: Path,
    checked: Checked,
    device: str,
    effort: Effort,
    best: float,
    report: Report,
) -> None:
    with serve(repository, device) as served, tempfile.TemporaryDirectory() as folder:
        plan = served.model(name)
        serving = ", ".join(f"{key} {value}" for key, value in plan["serving"].items())
        report.say(f"The service: `{plan['execution_provider']}`, {serving}.")
        report.say()
        many = Path(folder) / "many.npy"
        many.write_bytes(NPY.encode(Images((), _pictures(checked, effort.images))))
        target = Target(served.port, f"/v1/classify?model={name}&top_k=1", NPY.headers, (many,))
        with_threads(target, 1, 0.1)
        before = profile(served)
        load = with_threads(target, 2, 2 * effort.seconds)
        rate = load.requests * effort.images / load.duration_s
        share = rate / best if best else 0.0
        verdict = "" if share >= _GOAL else f", below the goal of {_GOAL}"
        report.say(
            f"Requests of {effort.images} images: {rate:,.0f} images/s, {share:.2f} of the network"
            f" alone at its best{verdict}. {_limits(before, profile(served))}"
        )
        report.say()
        _single(name, served, checked, effort, Path(folder), report)


def _single(
    name: str, served: Served, checked: Checked, effort: Effort, folder: Path, report: Report
) -> None:
    if shutil.which("wrk") is None:
        report.say("Single JPEGs: wrk is not installed.")
        report.say()
        return
    paths = []
    for number, data in enumerate(draw(16, checked.width)):
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(data)
    target = Target(served.port, f"/v1/classify?model={name}&top_k=1", RAW.headers, tuple(paths))
    seconds = max(1, round(2 * effort.seconds))
    with_wrk(target, 64, 1)
    before = profile(served)
    load = with_wrk(target, 64, seconds)
    report.say(
        f"Single JPEGs, 64 connections: {load.requests / load.duration_s:,.0f} images/s, p50"
        f" {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms, {load.bad} bad."
        f" {_limits(before, profile(served))}"
    )
    report.say()


def _pictures(checked: Checked, count: int) -> Pixels:
    shape = (count, checked.height, checked.width, 3)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def _limits(before: Profile, after: Profile) -> str:
    """Which threads were busy, and what that says."""
    seconds = after.at_s - before.at_s
    shares = {
        thread: (used - before.threads_s.get(thread, 0.0)) / seconds
        for thread, used in after.threads_s.items()
    }
    busiest = sorted(shares.items(), key=lambda item: -item[1])[:4]
    said = ", ".join(f"{thread} {share:.0%}" for thread, share in busiest)
    cpus = len(os.sched_getaffinity(0))
    if after.gpu_percent is not None and after.gpu_percent >= 90:
        limit = "the GPU"
    elif shares.get("main", 0.0) >= 0.9:
        limit = "the event loop"
    elif sum(shares.values()) >= 0.85 * cpus:
        limit = "the CPUs"
    else:
        limit = "none of these alone: copies, waiting, or the client"
    gpu = "" if after.gpu_percent is None else f"; GPU {after.gpu_percent} %"
    return f"Busy: {said} of {cpus} CPUs{gpu}. What limits: {limit}."


if __name__ == "__main__":
    sys.exit(main())

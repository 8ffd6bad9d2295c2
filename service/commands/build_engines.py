"""``adaresnet build-engines``: build TensorRT's engines before the service needs them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli import USAGE_ERROR, fail
from service.commands.options import missing_runtime
from service.engine.devices import Device, parse_devices
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.engine.engine_build import Built

_PROGRAM = "adaresnet build-engines"
_REBUILD = "--rebuild"
_HELP = f"""usage: {_PROGRAM} [--rebuild] [SETTINGS]

Build TensorRT's engines of all models in a repository, ahead of the service. An engine fits only
the settings that it was built with: give those of 'adaresnet serve', as flags, in the environment
or in a file ('adaresnet serve --help' lists them), with --device tensorrt.

  --rebuild   build those too that are there already"""


def build_engines(argv: list[str]) -> int:
    """Build TensorRT's engines of all models in a repository, ahead of the service."""
    if {"-h", "--help"} & set(argv):
        print(_HELP)
        return 0
    # Flags, environment and file as the service reads them: an engine fits its settings only.
    try:
        settings = load_settings([word for word in argv if word != _REBUILD], program=_PROGRAM)
    except ValueError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    devices = parse_devices(settings.device).each
    if devices[0].kind != "tensorrt":
        line = f"device is {settings.device!r}; engines are built for --device tensorrt"
        return fail(_PROGRAM, line, USAGE_ERROR)
    if (missing := missing_runtime()) is not None:
        return fail(_PROGRAM, missing)

    from service.engine.scan import scan

    try:
        found, _, _ = scan(settings.repository, settings.model_name)
    except OSError as error:
        return fail(_PROGRAM, f"models: {settings.repository}: {error.strerror}")
    if not found:
        return fail(_PROGRAM, f"there are no models in {settings.repository}")
    failed = [
        _build(path, device, settings, rebuild=_REBUILD in argv)
        for device in devices
        for _, _, path in found
    ]
    return int(any(failed))


def _build(path: Path, device: Device, settings: Settings, *, rebuild: bool) -> bool:
    """Build one, and say so; whether it failed."""
    from service.api.app import engine_options
    from service.engine.bundle import read_bundle
    from service.engine.engine_build import build_engine
    from service.engine.errors import ServiceError
    from service.engine.instances import gpu_options

    started_s = time.perf_counter()
    try:
        options = gpu_options(engine_options(settings).models.instances)
        built = build_engine(read_bundle(path), device, options, rebuild=rebuild)
    except ServiceError as error:
        fail(_PROGRAM, f"{path} on {device}: {error.detail} {error.hint}")
        return True
    print(_line(path, device, built, time.perf_counter() - started_s), flush=True)
    return False


def _line(path: Path, device: Device, built: Built, took_s: float) -> str:
    done = "was there" if built.build_s is None else f"built in {built.build_s:.1f} s"
    golden = built.golden_difference
    checked = "no golden images" if golden is None else f"golden images differ by {golden:.2g}"
    return (
        f"{path} on {device} ({built.key.gpu}): {done}, {checked}, batches to {built.buckets[-1]},"
        f" {took_s:.1f} s in all: {built.key.folder}"
    )

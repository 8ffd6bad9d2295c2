"""TensorRT's engines: built ahead by ``adaresnet build-engines``, only loaded by the service.

Building one takes seconds to minutes with all of a GPU (microsoft/onnxruntime issue 12120), which
must not happen while others are answered. ONNX Runtime builds whatever its cache lacks and can't be
told not to. So each engine lies in a folder of its own, named by all that it depends on, beside a
manifest that is written when it is whole; the service opens a model only where that fits.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.engine.cuda_driver import gpu_name
from service.engine.devices import Device
from service.engine.errors import DeviceError, ModelLoadError
from service.engine.gpu import GpuOptions

MANIFEST = "manifest.json"
_ENGINE = "*.engine"
# In the order of their needs.
_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")


@dataclass(frozen=True)
class InputShape:
    """The input of a graph: its name and its sizes, None for a batch that is free."""

    name: str
    sizes: tuple[int | None, ...]


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on; another value of any needs another engine.

    Attributes:
        model: SHA-256 of the model file, hex.
        gpu: Name and compute capability.
        tensorrt: Its version.
        onnxruntime: Its version, which decides how the engine's file is named.
        max_batch_size: Up to which the engine's kernels were chosen.
        fp16: It may compute in half precision.
        cache: The folder of all engines.
    """

    model: str
    gpu: str
    tensorrt: str
    onnxruntime: str
    max_batch_size: int
    fp16: bool
    cache: Path

    @property
    def values(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {name: value for name, value in asdict(self).items() if name != "cache"}

    @property
    def folder(self) -> Path:
        """Where its engine lies."""
        text = json.dumps(self.values, sort_keys=True)
        return self.cache / hashlib.sha256(text.encode()).hexdigest()[:32]


def default_cache() -> Path:
    """The user's cache folder for engines."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "adaresnet" / "tensorrt"


def engine_key(model_digest: str, device: Device, options: GpuOptions) -> EngineKey:
    """What the engine of a model on a GPU depends on.

    Raises:
        DeviceError: There is no such GPU, or no TensorRT.
    """
    import onnxruntime as ort

    gpu, version = gpu_name(device.index), _version()
    if gpu is None or version is None:
        missing = f"there is no GPU {device.index}" if gpu is None else f"no {_LIBRARIES[0]}"
        raise DeviceError(
            f"TensorRT can't be used: {missing}.",
            hint="Check nvidia-smi and the TensorRT packages (docs/gpu.md), or use --device cuda.",
        )
    return EngineKey(
        model=model_digest,
        gpu=gpu,
        tensorrt=version,
        onnxruntime=ort.__version__,
        max_batch_size=options.max_batch_size,
        fp16=options.tensorrt_fp16,
        cache=options.tensorrt_cache or default_cache(),
    )


def find_engines(key: EngineKey) -> Path:
    """The folder of a model's engines.

    Raises:
        ModelLoadError: They were not built, or not for this GPU and these settings.
    """
    try:
        manifest = json.loads((key.folder / MANIFEST).read_text())
        whole = manifest["files"] == _files(key.folder) and manifest["key"] == key.values
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ModelLoadError(
            f"TensorRT's engine of this model for {key.gpu} is not in {key.cache}.",
            hint="Build it ahead, with the settings of the service: adaresnet build-engines"
            " --models DIR --device tensorrt",
        )
    return key.folder


def check_unchanged(folder: Path) -> None:
    """Make sure that loading an engine has not built another.

    Raises:
        ModelLoadError: It has; the one that was built ahead did not fit.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest["files"] != _files(folder):
        raise ModelLoadError(
            "TensorRT did not take the engine that was built ahead, and built another.",
            hint="Build it again: adaresnet build-engines --device tensorrt --rebuild.",
        )


def write_manifest(key: EngineKey, folder: Path, build_s: float) -> None:
    """Say that a folder's engines are whole.

    Raises:
        ModelLoadError: There are none: TensorRT took no part of the model.
    """
    files = _files(folder)
    if not files:
        raise ModelLoadError(
            "TensorRT built no engine for this model.", hint="Use --device cuda for it."
        )
    text = json.dumps({"key": key.values, "files": files, "build_s": round(build_s, 1)}, indent=2)
    (folder / MANIFEST).write_text(text)


def input_shape(session: Any) -> InputShape:
    """The input of a graph.

    Raises:
        ModelLoadError: Its pictures have no fixed size.
    """
    tensor = session.get_inputs()[0]
    sizes = [size if isinstance(size, int) else None for size in tensor.shape]
    if len(session.get_inputs()) != 1 or None in sizes[1:]:
        raise ModelLoadError(
            f"The graph's input has the shape {tensor.shape}; TensorRT needs pictures of one size.",
            hint="Export it with a fixed height and width, or use --device cuda.",
        )
    return InputShape(tensor.name, tuple(sizes))


def provider_options(
    device: Device, options: GpuOptions, folder: Path, shape: InputShape
) -> dict[str, str]:
    """Options of the TensorRT provider, by which it finds its engines in a folder or builds them.

    With bounds for every free size the engine is built when the session is made, for all batches
    between them; without, it would be built anew for each larger batch that comes.

    Raises:
        ModelLoadError: Such bounds can't be written for an input of this name.
    """
    found = {
        "device_id": str(device.index),
        "trt_fp16_enable": str(int(options.tensorrt_fp16)),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder.parent),
    }
    if shape.sizes[0] is None:
        # ONNX Runtime takes the list apart at commas, and a name from its sizes at the first colon.
        if {":", ","} & set(shape.name):
            raise ModelLoadError(
                f"The graph's input is named {shape.name!r}; TensorRT's options can't name an input"
                " with a colon or a comma.",
                hint="Export it with another name for the input, or use --device cuda.",
            )
        picture = "x".join(str(size) for size in shape.sizes[1:])
        for bound, count in (("min", 1), ("opt", 0), ("max", 0)):
            batch = count or options.max_batch_size
            found[f"trt_profile_{bound}_shapes"] = f"{shape.name}:{batch}x{picture}"
    return found


@functools.cache
def load_libraries() -> None:
    """Load TensorRT from its Python packages, as ``preload_dlls`` does with CUDA's.

    What is not found there may still be where the system's loader looks.
    """
    found = importlib.util.find_spec("tensorrt_libs")
    for place in (found.submodule_search_locations or ()) if found else ():
        for name in _LIBRARIES:
            path = Path(place) / name
            if path.is_file():
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _version() -> str | None:
    load_libraries()
    try:
        return str(ctypes.CDLL(_LIBRARIES[0]).getInferLibVersion())
    except (OSError, AttributeError):
        return None


def _files(folder: Path) -> dict[str, int]:
    """Engine files by name, with their sizes."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob(_ENGINE))}

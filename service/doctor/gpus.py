"""GPUs, their driver, and the libraries that ONNX Runtime's providers want."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort

from service.doctor.findings import Finding
from service.engine.cuda_driver import gpu_count, gpu_name
from service.engine.devices import parse_devices
from service.engine.providers import built_in, load_libraries

# Libraries of the CUDA provider, with the number that is the major version of CUDA; cuDNN has one
# of its own (onnxruntime.ai, "CUDA Execution Provider", Requirements).
_CUDA_LIBRARIES = ("libcudart.so.{cuda}", "libcublas.so.{cuda}", "libcublasLt.so.{cuda}")
_CUDNN_LIBRARY = "libcudnn.so.9"
_TENSORRT_LIBRARY = "libnvinfer.so.10"
_DRIVER = Path("/proc/driver/nvidia/version")


def examine_gpus(device: str) -> Iterator[Finding]:
    """Look at what GPUs need, as far as the setting ``device`` wants any."""
    wanted = parse_devices(device)
    kinds = {one.kind for one in wanted.each} - {"cpu"}
    demanded = wanted.demanded and bool(kinds)
    yield _runtime()
    if not kinds:
        return
    yield from _gpus(demanded=demanded)
    if not built_in("cuda"):
        if demanded or gpu_count():
            yield Finding(
                "CUDA provider",
                "problem" if demanded else "warning",
                "The installed ONNX Runtime has none: everything runs on the CPU.",
                "Install adaresnet[gpu] instead of adaresnet[cpu].",
            )
        return
    load_libraries("cuda")  # from their Python packages, as the service does
    yield _libraries("CUDA libraries", _cuda_names(), demanded=demanded)
    if "tensorrt" in kinds and demanded:
        load_libraries("tensorrt")
        yield _libraries("TensorRT library", [_TENSORRT_LIBRARY], demanded=True)


def _runtime() -> Finding:
    cuda = _cuda_version()
    built = f", built for CUDA {cuda}" if cuda else ""
    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()
    )
    return Finding("ONNX Runtime", "ok", f"{ort.__version__}{built}; it has: {providers}.")


def _gpus(*, demanded: bool) -> Iterator[Finding]:
    count = gpu_count()
    if count:
        names = ", ".join(gpu_name(index) or "?" for index in range(count))
        version = _DRIVER.read_text().partition("\n")[0].strip() if _DRIVER.exists() else ""
        yield Finding("GPUs", "ok", f"{count}: {names}. {version}".strip())
    elif demanded:
        yield Finding(
            "GPUs",
            "problem",
            "No GPU or no driver can be seen (libcuda.so.1).",
            "Check nvidia-smi; in a container, start it with --gpus all (the NVIDIA Container"
            " Toolkit), or use --device cpu.",
        )
    else:
        yield Finding("GPUs", "ok", "None: models run on the CPU.")


def _libraries(about: str, names: list[str], *, demanded: bool) -> Finding:
    missing = [name for name in names if not _loads(name)]
    if not missing:
        return Finding(about, "ok", f"All are found: {', '.join(names)}.")
    return Finding(
        about,
        "problem" if demanded else "warning" if gpu_count() else "ok",
        f"Wanted: {', '.join(names)}; not found: {', '.join(missing)}.",
        "Install adaresnet[gpu], which brings them as packages, or set LD_LIBRARY_PATH to where"
        " they are.",
    )


def _cuda_names() -> list[str]:
    major = _cuda_version().partition(".")[0]
    return [*(name.format(cuda=major) for name in _CUDA_LIBRARIES), _CUDNN_LIBRARY]


def _cuda_version() -> str:
    return str(getattr(ort, "cuda_version", "") or "")


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True

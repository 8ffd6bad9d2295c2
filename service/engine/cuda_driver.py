"""Ask the NVIDIA libraries what ONNX Runtime doesn't tell: GPUs, their names, memory of theirs.

All through ``ctypes``; where a library is missing the answer is "none", and what needs one says so.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import weakref
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_PORTABLE = 1  # cudaHostAllocPortable: pinned for every GPU
_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


def gpu_count() -> int:
    """GPUs that CUDA programs of this process can see; 0 without a driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def gpu_name(index: int) -> str | None:
    """The name and compute capability of a GPU, ``NVIDIA L4, 8.9``; None where there is none."""
    driver = _driver()
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if (
        driver is None
        or driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    ):
        return None
    return f"{name.value.decode(errors='replace')}, {major.value}.{minor.value}"


def gpu_memory(index: int, driver: Any = None) -> tuple[int, int] | None:
    """Free and total memory of a GPU in bytes, whoever uses it; None where that can't be told.

    Args:
        index: As CUDA counts.
        driver: The CUDA driver library; None: the one of this system.
    """
    driver = _driver() if driver is None else driver
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    # The context that ONNX Runtime has there already: it costs nothing to take part in it.
    if (
        driver is None
        or driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    ):
        return None
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return None
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return None if failed else (free.value, total.value)


def pinned_zeros(
    shape: tuple[int, ...], dtype: DTypeLike, runtime: Any = None
) -> tuple[NDArray[Any], bool]:
    """An array of zeros in page-locked memory, and whether it really is.

    A GPU copies from page-locked memory by itself, at the full speed of the bus and beside whatever
    else runs; from any other the driver first copies into a page-locked buffer of its own, with
    the CPU (CUDA C Programming Guide, "Page-Locked Host Memory"). The copy that ONNX Runtime makes
    is a ``cudaMemcpyAsync``, which looks at the address, so that nothing has to be said to it.

    Args:
        shape: Of the array.
        dtype: Of the array.
        runtime: The CUDA runtime library; None: the one that ONNX Runtime has loaded.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    runtime = _runtime() if runtime is None else runtime
    address = ctypes.c_void_p()
    if runtime is None or runtime.cudaHostAlloc(
        ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(_PORTABLE)
    ):
        return np.zeros(shape, dtype), False
    assert address.value is not None
    memory = (ctypes.c_ubyte * size).from_address(address.value)
    # The array, and every view of it, holds this object; with the last of them the memory goes.
    weakref.finalize(memory, runtime.cudaFreeHost, ctypes.c_void_p(address.value)).atexit = False
    array = np.frombuffer(memoryview(memory), np.dtype(dtype)).reshape(shape)
    array[...] = 0
    return array, True


@functools.cache
def _driver() -> Any:
    """The driver, initialised; None where there is none or it has no GPU."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        return None if driver.cuInit(0) else driver
    return None


@functools.cache
def _runtime() -> Any:
    """The CUDA runtime that ONNX Runtime was built for, as it is loaded for its provider."""
    import onnxruntime as ort

    major = str(getattr(ort, "cuda_version", "") or "").partition(".")[0]
    if not major or gpu_count() == 0:
        return None
    for name in (f"libcudart.so.{major}", f"cudart64_{major}.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None

from __future__ import annotations

import ctypes
import gc

import numpy as np

from service.engine.cuda_driver import gpu_count, gpu_name, pinned_zeros


class Runtime:
    """Stands in for the CUDA runtime, with the C library's memory."""

    def __init__(self, *, full: bool = False) -> None:
        self.libc = ctypes.CDLL(None)
        self.libc.malloc.restype = ctypes.c_void_p
        self.libc.malloc.argtypes = [ctypes.c_size_t]
        self.libc.free.argtypes = [ctypes.c_void_p]
        self.full = full
        self.freed: list[int | None] = []

    def cudaHostAlloc(self, address, size, flags):  # noqa: N802 - CUDA's name
        assert flags.value == 1
        if self.full:
            return 2
        address._obj.value = self.libc.malloc(size)
        return 0

    def cudaFreeHost(self, address):  # noqa: N802
        self.freed.append(address.value)
        self.libc.free(address)


def test_pinned_memory_lives_as_long_as_its_last_view():
    runtime = Runtime()
    array, pinned = pinned_zeros((4, 8, 3), np.uint8, runtime)
    assert pinned
    assert array.shape == (4, 8, 3)
    assert not array.any()
    array[...] = 7
    view = array[1:2]
    address = array.ctypes.data
    del array
    gc.collect()
    assert not runtime.freed
    assert view.sum() == 8 * 3 * 7
    del view
    gc.collect()
    assert runtime.freed == [address]


def test_without_pinned_memory_there_is_other():
    for runtime in (Runtime(full=True), None):
        array, pinned = pinned_zeros((2, 3), np.float32, runtime)
        assert not array.any()
        assert array.dtype == np.float32
        assert pinned is False or gpu_count() > 0


def test_a_gpu_that_is_not_there():
    assert gpu_name(999) is None
    assert gpu_count() >= 0

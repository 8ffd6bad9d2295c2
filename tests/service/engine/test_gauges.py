from __future__ import annotations

import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from service.engine import gauges
from service.engine.cuda_driver import gpu_memory
from service.engine.gauges import Gauges, Look


def values(registry: CollectorRegistry, name: str) -> dict[str, float]:
    return {
        ",".join(sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_queues_and_instances_are_as_the_engine_says(registry):
    series = Gauges(registry)
    series.refresh()
    series.watch(lambda: Look({("m", 1): 3, ("m", 2): 0}, busy=2, idle=1, lost=4))
    series.refresh()
    assert values(registry, "adaresnet_queue_images") == {"m,1": 3, "m,2": 0}
    assert values(registry, "adaresnet_instances") == {"busy": 2, "idle": 1, "lost": 4}
    assert values(registry, "adaresnet_gpu_memory_used_bytes") == {}
    series.watch(lambda: Look({("m", 2): 5}, busy=0, idle=3, lost=0))
    series.refresh()
    assert values(registry, "adaresnet_queue_images") == {"m,1": 0, "m,2": 5}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_process_has_its_usual_series(registry):
    series = Gauges(registry)
    series.refresh()
    first = values(registry, "process_cpu_seconds_total")[""]
    sum(range(3_000_000))
    series.refresh()
    assert values(registry, "process_cpu_seconds_total")[""] >= first > 0
    assert values(registry, "process_resident_memory_bytes")[""] > 2**20
    assert 3 <= values(registry, "process_open_fds")[""] < values(registry, "process_max_fds")[""]
    assert values(registry, "process_start_time_seconds")[""] > 1.7e9


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_who_asks_at_once_counts_no_time_twice(registry, monkeypatch):
    class LetsOthersIn(Counter):
        def inc(self, *args, **kwargs):
            time.sleep(0.01)
            super().inc(*args, **kwargs)

    monkeypatch.setattr(gauges, "Counter", LetsOthersIn)
    series = Gauges(registry)
    with ThreadPoolExecutor(4) as pool:
        for asked in [pool.submit(series.refresh) for _ in range(8)]:
            asked.result()
    used = os.times()  # in whole ticks, as what was counted
    counted_s = values(registry, "process_cpu_seconds_total")[""]
    assert 0 < counted_s <= used.user + used.system + 0.02


def test_memory_of_gpus_is_what_the_driver_says(registry, monkeypatch):
    memory = {0: (3 * 2**30, 8 * 2**30), 1: None}
    monkeypatch.setattr(gauges, "gpu_memory", memory.get)
    series = Gauges(registry)
    series.watch(lambda: Look({}, busy=0, idle=1, lost=0, gpus=frozenset({0, 1})))
    series.refresh()
    assert values(registry, "adaresnet_gpu_memory_used_bytes") == {"0": 5 * 2**30}
    assert values(registry, "adaresnet_gpu_memory_total_bytes") == {"0": 8 * 2**30}


class Driver:
    """Stands in for the CUDA driver: one GPU, whose context is taken and given back."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.calls: list[str] = []

    def __getattr__(self, name: str):
        def call(*args: object) -> int:
            self.calls.append(name)
            if name == self.failing:
                return 2
            if name == "cuMemGetInfo_v2":
                for argument, size in zip(args, (10, 40), strict=True):
                    pointer = ctypes.cast(argument, ctypes.POINTER(ctypes.c_size_t))  # type: ignore[arg-type]
                    pointer.contents.value = size
            return 0

        return call


def test_a_context_is_given_back_whatever_happens():
    driver = Driver()
    assert gpu_memory(0, driver) == (10, 40)
    assert driver.calls[-2:] == ["cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]
    for failing in ("cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuMemGetInfo_v2"):
        driver = Driver(failing)
        assert gpu_memory(0, driver) is None
        taken = failing == "cuMemGetInfo_v2"
        assert ("cuDevicePrimaryCtxRelease_v2" in driver.calls) is taken
    driver = Driver("cuCtxPushCurrent_v2")
    assert gpu_memory(0, driver) is None
    assert "cuCtxPopCurrent_v2" not in driver.calls
    assert driver.calls[-1] == "cuDevicePrimaryCtxRelease_v2"

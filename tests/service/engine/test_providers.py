from __future__ import annotations

import logging
from collections import Counter

import pytest

from service.engine.devices import Device
from service.engine.errors import DeviceError, ModelLoadError
from service.engine.gpu import GpuOptions
from service.engine.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    built_in,
    check_placement,
    create_on_gpu,
    digest_of,
    open_on_gpu,
    placement,
)

CUDA = Device("cuda")


def test_a_network_that_is_all_on_the_gpu():
    assert check_placement({CUDA_PROVIDER: Counter(Conv=9)}, CUDA, strict=True) == CUDA_PROVIDER


def test_sizes_may_be_computed_on_the_cpu():
    found = {CUDA_PROVIDER: Counter(Conv=9), CPU_PROVIDER: Counter(Shape=10, Gather=3, Concat=1)}
    assert check_placement(found, CUDA, strict=True) == CUDA_PROVIDER


def test_a_network_of_which_a_part_runs_on_the_cpu(caplog):
    found = {CUDA_PROVIDER: Counter(Relu=9), CPU_PROVIDER: Counter(QLinearConv=9, Shape=1)}
    with pytest.raises(ModelLoadError, match="no kernel for QLinearConv of this model"):
        check_placement(found, CUDA, strict=True)
    with caplog.at_level(logging.WARNING):
        check_placement(found, CUDA, strict=False)
    assert "QLinearConv" in caplog.text


@pytest.mark.parametrize(("strict", "error"), [(True, ModelLoadError), (False, DeviceError)])
def test_a_gpu_that_takes_nothing(strict, error):
    # Not strictly, the CPU takes its place, which a DeviceError brings about.
    with pytest.raises(error, match="takes no part"):
        check_placement({CPU_PROVIDER: Counter(Conv=9)}, CUDA, strict=strict)


def test_tensorrt_may_leave_the_rest_to_cuda():
    found = {TENSORRT_PROVIDER: Counter(Conv=9), CUDA_PROVIDER: Counter(Softmax=1)}
    assert check_placement(found, Device("tensorrt"), strict=True) == TENSORRT_PROVIDER


def test_the_record_of_the_partitioning_has_every_node(exported, monkeypatch):
    if built_in("cuda"):
        pytest.skip("this ONNX Runtime has a CUDA provider")
    monkeypatch.setattr("service.engine.providers._gpu_providers", lambda *_: [(CPU_PROVIDER, {})])
    session = create_on_gpu(exported.result.path, CUDA, 1, GpuOptions(), None)
    found = placement(session)
    assert set(found) == {CPU_PROVIDER}
    assert found[CPU_PROVIDER]["Conv"] > 5
    assert found[CPU_PROVIDER]["Softmax"] == 1


@pytest.mark.parametrize("kind", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_built_in(exported, kind):
    if built_in(kind):
        pytest.skip("this ONNX Runtime has it")
    with pytest.raises(DeviceError, match=r"has no (CUDA|TensorRT) provider") as caught:
        open_on_gpu(exported.result.path, Device(kind), 1, GpuOptions(), strict=True)
    assert "--device c" in caught.value.hint


def test_the_digest_of_a_file_is_that_of_its_bytes(exported):
    path = exported.result.path
    assert digest_of(path) == digest_of(path.read_bytes())

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from service.engine.errors import (
    DeviceError,
    DeviceLostError,
    InferenceError,
    ModelLoadError,
    OutOfMemoryError,
)
from service.engine.golden import replay_golden_images
from service.engine.halving import run_or_halve
from service.engine.session import CUDA_PROVIDER, Session, SessionOptions, available_cpus

CPU = SessionOptions("cpu")


def cuda_works(path: Path) -> bool:
    try:
        return Session(path, SessionOptions("cuda")).provider == CUDA_PROVIDER
    except DeviceError:
        return False


def test_batches_and_singles_agree_from_many_threads(exported, rng):
    session = Session(exported.result.path, CPU)
    images = rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    whole = session.run(images)
    assert whole.logits.dtype == np.float32
    assert np.allclose(whole.probabilities.sum(axis=1), 1, atol=1e-5)
    with ThreadPoolExecutor(8) as pool:
        singles = list(pool.map(lambda i: session.run(images[i : i + 1]), range(40)))
    logits = np.concatenate([single.logits for single in singles])
    assert np.allclose(logits, whole.logits, atol=1e-4)


def test_auto_without_a_gpu_package_runs_on_the_cpu(exported):
    session = Session(exported.result.path, SessionOptions("auto", available_cpus()))
    assert session.provider in ("CPUExecutionProvider", CUDA_PROVIDER)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"onnx"])
def test_a_file_that_is_no_model(content, tmp_path):
    with pytest.raises(ModelLoadError, match="can't load"):
        Session(content, CPU)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError):
        Session(path, CPU)


def test_a_model_without_our_metadata(exported):
    model = onnx.load(exported.result.path)
    del model.metadata_props[:]
    with pytest.raises(ModelLoadError, match=r"adaresnet\.metadata"):
        Session(model.SerializeToString(), CPU)


def test_a_model_with_other_outputs(exported):
    model = onnx.load(exported.result.path)
    del model.graph.output[1]
    with pytest.raises(ModelLoadError, match="probabilities"):
        Session(model.SerializeToString(), CPU)


def test_a_run_that_fails_is_an_inference_error(exported):
    session = Session(exported.result.path, CPU)
    with pytest.raises(InferenceError):
        session.run(np.zeros((1, 15, 16, 3), np.uint8))


@pytest.mark.gpu
def test_the_gpu_gives_the_golden_logits_when_asked_for(exported):
    if not cuda_works(exported.result.path):
        pytest.skip("ONNX Runtime can't use CUDA here")
    session = Session(exported.result.path, SessionOptions("cuda"))
    assert session.provider == CUDA_PROVIDER
    assert replay_golden_images(session) is not None


@pytest.mark.parametrize(
    "reason",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9",
        "Available memory of 1 is smaller than requested bytes of 9",
        "CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_a_full_memory_is_told_with_what_to_do(exported, monkeypatch, reason):
    session = Session(exported.result.path, CPU)

    class Full:
        def run(self, *_: object) -> None:
            raise RuntimeError(reason)

    monkeypatch.setattr(session, "_session", Full())
    with pytest.raises(OutOfMemoryError, match="no memory left") as caught:
        session.run(np.zeros((1, 16, 16, 3), np.uint8))
    assert "max_batch_size" in caught.value.hint


class Gpu:
    """A real session that fails as ONNX Runtime does on a GPU, by its own class of errors."""

    def __init__(self, session: Any, error: Exception, over: int) -> None:
        self._session, self._error, self._over = session, error, over

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> Any:
        (images,) = feeds.values()
        if len(images) > self._over:
            raise self._error
        return self._session.run(names, feeds)


def test_batches_over_the_memory_of_a_gpu_are_run_in_halves(exported, monkeypatch, rng):
    session = Session(exported.result.path, CPU)
    images = rng.integers(0, 256, (11, 16, 16, 3), np.uint8)
    expected = session.run(images)
    full = RuntimeException("CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; file=y ; line=1")
    monkeypatch.setattr(session, "_session", Gpu(session._session, full, over=3))
    splits: list[None] = []
    found = run_or_halve(session.run, images, lambda: splits.append(None))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert len(splits) == 3
    monkeypatch.setattr(session, "_session", Gpu(session._session, full, over=0))
    with pytest.raises(OutOfMemoryError, match="a batch of 1 images"):
        run_or_halve(session.run, images, lambda: None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLostError),
        ("CUDA failure 719: unspecified launch failure ; GPU=0", DeviceLostError),
        ("CUDA failure 214: uncorrectable ECC error encountered ; GPU=0", DeviceLostError),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemoryError),
        ("CUDA failure 7001: of a later version", InferenceError),
        ("CUDNN failure 3: CUDNN_STATUS_BAD_PARAM", InferenceError),
    ],
)
def test_a_gpu_that_is_lost_is_told_from_other_failures(exported, monkeypatch, text, kind):
    session = Session(exported.result.path, CPU)
    failing = Gpu(session._session, Fail(f"[ONNXRuntimeError] : 1 : FAIL : {text}"), over=0)
    monkeypatch.setattr(session, "_session", failing)
    with pytest.raises(InferenceError) as caught:
        session.run(np.zeros((2, 16, 16, 3), np.uint8))
    assert type(caught.value) is kind


def test_a_session_on_the_cpu_takes_any_batch_size(exported):
    session = Session(exported.result.path, CPU)
    assert session.device == "cpu"
    assert session.buckets == ()
    session.warm_up(3)

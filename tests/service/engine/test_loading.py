"""What is settled by the first file and holds for all, and that what answers was checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engine import instances
from service.engine.batcher import BatchPlan
from service.engine.devices import CPU
from service.engine.errors import DeviceError, ModelLoadError
from service.engine.gpu import GpuGraph, GpuOptions, _Bound
from service.engine.instances import InstanceOptions
from service.engine.loading import Loader
from service.engine.plan import PlanOptions
from service.engine.providers import Opened, open_on_cpu
from service.engine.session import Prediction, Session, SessionOptions


def loader(device: str, *, cpus: int = 2, gpu: GpuOptions | None = None) -> Loader:
    sessions = SessionOptions(device, 0, gpu=gpu or GpuOptions())
    return Loader(InstanceOptions(sessions, 2, cpus, PlanOptions(8)), probe=False)


@pytest.fixture
def model(exported) -> Path:
    path: Path = exported.result.path
    return path


@pytest.fixture
def strictness(monkeypatch) -> list[bool]:
    """Let GPUs be the CPU; says of every session whether it was to be there as a whole."""
    noted: list[bool] = []

    def open_on_gpu(model, device, threads, gpu, *, strict):
        noted.append(strict)
        graph = open_on_cpu(model, threads).graph
        return Opened(
            GpuGraph(graph, CPU, gpu, replays=gpu.cuda_graphs), "CUDAExecutionProvider", device
        )

    monkeypatch.setattr("service.engine.session.open_on_gpu", open_on_gpu)
    return noted


@pytest.mark.parametrize(("device", "strict"), [("auto", False), ("cuda", True)])
def test_only_a_gpu_that_was_named_takes_all_of_a_model_or_nothing(
    model, strictness, device, strict
):
    made = loader(device)
    for _ in range(2):
        assert made.load(model).instances.device == "cuda:0"
    assert strictness == [strict] * 4


def test_a_gpu_that_does_not_run_leaves_every_model_all_cpus(model, monkeypatch):
    def refuse(*args, **kwargs):
        raise DeviceError("CUDA can't be used: a test.", hint="")

    monkeypatch.setattr("service.engine.session.open_on_gpu", refuse)
    monkeypatch.setattr(instances, "cuda_built_in", lambda: True)
    monkeypatch.setattr(instances, "gpu_count", lambda: 1)
    made = loader("auto", cpus=8)
    for _ in range(2):
        loaded = made.load(model).instances
        assert (loaded.device, loaded.threads, len(loaded.sessions)) == ("cpu", 4, 2)


def test_the_session_of_all_threads_must_answer_right_too(model, monkeypatch):
    class Wrong(Session):
        def __init__(self, model, options, config=None):
            super().__init__(model, options, config)
            self._wrong = options.spin

        def run(self, images):
            found = super().run(images)
            return Prediction(found.logits + np.float32(self._wrong), found.probabilities)

    monkeypatch.setattr(instances, "Session", Wrong)
    monkeypatch.setattr(instances, "WORTH_SHARING_S", 0)
    monkeypatch.setattr(instances, "choose_plan", lambda *_, **__: BatchPlan(4, 4, wide_up_to=1))
    with pytest.raises(ModelLoadError, match="golden images' logits differ"):
        loader("cpu").load(model)
    monkeypatch.setattr(instances, "choose_plan", lambda *_, **__: BatchPlan(4, 4, wide_up_to=0))
    assert loader("cpu").load(model).golden_difference is not None


def test_cuda_graphs_must_answer_right_too(model, strictness, monkeypatch):
    run = _Bound.run

    def wrong_once_recorded(self, names, images):
        logits, probabilities = run(self, names, images)
        return [logits + np.float32(self.runs > 4), probabilities]

    monkeypatch.setattr(_Bound, "run", wrong_once_recorded)
    with pytest.raises(ModelLoadError, match="golden images' logits differ"):
        loader("cuda", gpu=GpuOptions(cuda_graphs=True)).load(model)

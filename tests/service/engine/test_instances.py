from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from service.engine import instances as subject
from service.engine.devices import CPU
from service.engine.errors import DeviceError, InferenceError
from service.engine.gpu import GpuGraph, GpuOptions
from service.engine.instances import InstanceOptions, Instances, count_lanes, gpu_options
from service.engine.plan import PlanOptions
from service.engine.providers import Opened, open_on_cpu
from service.engine.session import Session, SessionOptions
from service.model_config import ModelConfig


def options(device: str = "cpu", *, lanes: int = 2, cap: int = 8) -> InstanceOptions:
    return InstanceOptions(SessionOptions(device, 1), lanes, 2, PlanOptions(cap))


@pytest.mark.parametrize(
    ("device", "instances", "threads", "lanes"),
    [
        ("cpu", 0, 0, 8),
        ("cpu", 0, 4, 2),
        ("cpu", 0, 16, 1),
        ("cpu", 3, 0, 3),
        ("cuda", 0, 0, 2),
        ("cuda:0,cuda:1", 0, 4, 4),
        ("cuda:0,cuda:1", 3, 0, 6),
        ("tensorrt:1", 1, 0, 1),
    ],
)
def test_lanes(device, instances, threads, lanes):
    assert count_lanes(device, instances, threads, cpus=8) == lanes


@pytest.mark.parametrize(("built_in", "gpus", "lanes"), [(True, 1, 2), (True, 0, 8), (False, 1, 8)])
def test_auto_counts_on_a_gpu_where_there_is_one(monkeypatch, built_in, gpus, lanes):
    monkeypatch.setattr(subject, "cuda_built_in", lambda: built_in)
    monkeypatch.setattr(subject, "gpu_count", lambda: gpus)
    assert count_lanes("auto", 0, 0, cpus=8) == lanes


def test_lanes_of_one_thread_share_a_session_on_the_cpu(exported):
    instances = Instances(exported.result.path.read_bytes(), options())
    assert len(instances.sessions) == 1
    assert instances.device == "cpu"
    instances.measure(exported.result.path.read_bytes())
    assert instances.plan.spread
    assert instances.images_per_s > 0


@pytest.fixture
def gpus(monkeypatch) -> list[str]:
    """Let GPUs be the CPU: the same graphs, without their memory; says where each was opened."""
    opened: list[str] = []

    def open_on_gpu(model, device, threads, gpu, *, strict):
        opened.append(str(device))
        graph = open_on_cpu(model, threads).graph
        return Opened(
            GpuGraph(graph, CPU, gpu, replays=gpu.cuda_graphs), "CUDAExecutionProvider", device
        )

    monkeypatch.setattr("service.engine.session.open_on_gpu", open_on_gpu)
    return opened


def test_every_lane_on_gpus_has_a_session_and_all_are_warm(exported, gpus, rng):
    model = exported.result.path.read_bytes()
    instances = Instances(model, options("cuda:0,cuda:1", lanes=4))
    assert gpus == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert len(instances.sessions) == 4
    assert instances.device == "cuda:0,cuda:1"
    assert instances.first.provider == "CUDAExecutionProvider"
    instances.measure(model)
    assert set(instances.timings) == {1, 2, 4, 8}
    assert instances.plan.batch_size == 8
    assert not instances.plan.spread
    images = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    answers = [instances.run(images, lane, False).logits for lane in range(4)]
    for answer in answers[1:]:
        assert np.allclose(answer, answers[0], atol=1e-4)


def test_every_bucket_has_run_in_every_session(exported, gpus, monkeypatch):
    warmed: dict[int, list[int]] = {}
    warm_up = Session.warm_up

    def note(session, bucket):
        warmed.setdefault(id(session), []).append(bucket)
        warm_up(session, bucket)

    monkeypatch.setattr(Session, "warm_up", note)
    model = exported.result.path.read_bytes()
    instances = Instances(model, options("cuda", lanes=3))
    instances.measure(model)
    assert {tuple(sizes) for sizes in warmed.values()} == {(1, 2, 4, 8)}
    assert set(warmed) == {id(session) for session in instances.sessions}


def test_sizes_without_memory_are_left_out_unless_asked_for(exported, gpus, monkeypatch):
    warm_up = Session.warm_up

    def scarce(session, bucket):
        if bucket > 4:
            raise InferenceError("There was no memory left.", hint="")
        warm_up(session, bucket)

    monkeypatch.setattr(Session, "warm_up", scarce)
    model = exported.result.path.read_bytes()
    measured = Instances(model, options("cuda", cap=0))
    measured.measure(model)
    assert measured.plan.batch_size <= 4
    asked_for = Instances(model, options("cuda", cap=8))
    with pytest.raises(InferenceError):
        asked_for.measure(model)


def test_a_gpu_that_does_not_run_leaves_its_few_lanes_all_cpus(exported, monkeypatch):
    def refuse(*args, **kwargs):
        raise DeviceError("CUDA can't be used: a test.", hint="")

    monkeypatch.setattr("service.engine.session.open_on_gpu", refuse)
    monkeypatch.setattr(subject, "cuda_built_in", lambda: True)
    monkeypatch.setattr(subject, "gpu_count", lambda: 1)
    model = exported.result.path.read_bytes()
    instances = Instances(model, replace(options("auto"), cpus=8))
    assert instances.device == "cpu"
    assert instances.threads == 4
    assert len(instances.sessions) == 2
    with pytest.raises(DeviceError):
        Instances(model, options("cuda"))


def test_buckets_reach_what_the_plan_may_choose():
    assert gpu_options(options(cap=48)).max_batch_size == 48
    assert gpu_options(options(cap=0)).max_batch_size == GpuOptions().max_batch_size


def test_on_a_machine_without_a_gpu_auto_is_the_cpu(exported, monkeypatch):
    monkeypatch.setattr(subject, "gpu_count", lambda: 0)
    one = replace(options("auto", lanes=1), cpus=8)
    instances = Instances(exported.result.path.read_bytes(), one)
    assert (instances.device, instances.threads) == ("cpu", 1)


def test_models_from_elsewhere_run_in_buckets_too(exported, gpus, rng):
    model = onnx.load(exported.result.path)
    del model.metadata_props[:]
    config = ModelConfig.model_validate(
        {"labels": ["a", "b", "c"], "output": {"kind": "logits", "name": "logits"}}
    )
    data = model.SerializeToString()
    instances = Instances(data, options("cuda"), config)
    instances.measure(data, config)
    images = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    ours = Session(exported.result.path, SessionOptions("cpu")).run(images)
    assert np.allclose(instances.run(images, 1, False).logits, ours.logits, atol=1e-4)
    assert instances.first.buckets == (1, 2, 4, 8)


def test_a_graph_fixed_to_a_batch_is_planned_in_such_batches(exported):
    model = onnx.load(exported.result.path)
    del model.metadata_props[:]
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 8
    config = ModelConfig.model_validate(
        {"labels": ["a", "b", "c"], "output": {"kind": "logits", "name": "logits"}}
    )
    data = model.SerializeToString()
    for cap, least in ((0, 8), (4, 4)):
        instances = Instances(data, options("cpu", cap=cap), config)
        instances.measure(data, config)
        assert min(instances.timings) == least
        assert instances.plan.small_batch_size >= least
        assert not instances.plan.spread  # each part would be padded to eight

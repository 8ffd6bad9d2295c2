from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.engine.errors import ModelLoadError
from service.engine.probe import Limits, Probe
from tests.conftest import MODELS
from tests.service.foreign_models import keras_like, save

MNIST = MODELS / "mnist" / "1" / "model.onnx"
PICTURES = ("x", TensorProto.FLOAT, ("n", 3, 8, 8))
LOGITS = "[normalization]\n[output]\nkind = 'logits'\n"


@pytest.fixture
def model(tmp_path) -> Path:
    path: Path = tmp_path / "model.onnx"
    path.with_name("config.toml").write_text(LOGITS)
    return path


@pytest.fixture(scope="module")
def probe():
    probe = Probe()
    yield probe
    probe.close()
    probe.rest()


def integers(name: str, values: list[int]) -> object:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def means(*nodes: object, weights: tuple[object, ...], path: Path) -> None:
    mean = helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0)
    save(path, [mean, *nodes], [*weights], PICTURES, ("y", ["n", 3]))  # type: ignore[list-item]


def endless(path: Path) -> None:
    """A loop of 2**62 rounds."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("a", TensorProto.FLOAT, None),
        ],
        [info("on", TensorProto.BOOL, []), info("b", TensorProto.FLOAT, None)],
    )
    loop = helper.make_node("Loop", ["rounds", "true", "means"], ["y"], body=body)
    true = numpy_helper.from_array(np.array(True), "true")
    rounds = numpy_helper.from_array(np.array(1 << 62, np.int64), "rounds")
    means(loop, weights=(rounds, true), path=path)


def test_what_was_tried_is_named_by_its_digests(probe, tmp_path):
    assert probe.try_out(MNIST).digest == hashlib.sha256(MNIST.read_bytes()).hexdigest()
    keras_like(tmp_path / "model.onnx")
    (tmp_path / "config.toml").write_text("[output]\nkind = 'probabilities'\n")
    assert probe.try_out(tmp_path / "model.onnx").config_digest is not None


def test_the_error_is_the_one_that_the_service_would_raise(probe, model):
    keras_like(model)
    with pytest.raises(ModelLoadError) as caught:
        probe.try_out(model)
    assert caught.value.detail.startswith("config.toml: output.kind is 'logits', but")
    assert caught.value.hint
    with pytest.raises(ModelLoadError, match="not there"):
        probe.try_out(model.with_name("none.onnx"))


@pytest.mark.parametrize("where", ["while it is loaded", "while it runs"])
def test_memory_is_bounded(probe, model, where):
    total = helper.make_node("ReduceSum", ["big"], ["total"], keepdims=0)
    end = helper.make_node("Add", ["means", "total"], ["y"])
    if where == "while it is loaded":
        big = helper.make_node("ConstantOfShape", ["size"], ["big"])
        size = integers("size", [1 << 18, 1 << 18])
    else:
        big = helper.make_node("Expand", ["means", "size"], ["big"])
        size = integers("size", [1 << 16, 1 << 16, 1, 3])
    means(big, total, end, weights=(size,), path=model)
    with pytest.raises(ModelLoadError, match=r"too much memory .* limit is 2048 MiB"):
        probe.try_out(model)
    probe.try_out(MNIST)


def test_time_is_bounded(model):
    endless(model)
    probe = Probe(Limits(time_s=2))
    with pytest.raises(ModelLoadError, match="not loaded and run once within 2 s"):
        probe.try_out(model)
    probe.try_out(MNIST)
    probe.rest()


def test_closing_ends_a_trial_at_once(model):
    endless(model)
    probe = Probe()
    threading.Timer(3, probe.close).start()
    began = time.monotonic()
    with pytest.raises(ModelLoadError, match="has ended"):
        probe.try_out(model)
    assert time.monotonic() - began < 20
    with pytest.raises(ModelLoadError, match="is stopping"):
        probe.try_out(MNIST)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashes ONNX Runtime (signal 11)"),
        ("os.abort()", "crashes ONNX Runtime (signal 6)"),
        ("os._exit(3)", "crashes ONNX Runtime (status 3)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "too much memory"),
        ("exec('raise MemoryError')", "crashes ONNX Runtime (status 1)"),
    ],
)
def test_the_end_of_a_process_is_an_answer(end, words):
    """No file is known that crashes ONNX Runtime, so the crash is put in its place."""
    script = f"""
import json, os, signal
from service.engine import probe
probe._do = lambda *_: {end}
print(json.dumps(probe._in_fork(json.dumps({{"limits": {{}}, "path": "", "task": "try"}}))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert words in json.loads(done.stdout)["detail"]


def test_no_process_stays(probe):
    other = Probe()
    other.try_out(MNIST)
    process = other._process
    assert process is not None
    os.kill(process.pid, 9)
    with pytest.raises(ModelLoadError, match="has ended"):
        other.try_out(MNIST)
    other.try_out(MNIST)
    other.rest()
    assert other._process is None


def test_a_process_that_can_not_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ModelLoadError, match="can be started: No such file"):
        Probe().try_out(MNIST)

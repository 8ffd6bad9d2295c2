from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from service.engine.devices import Device
from service.engine.errors import DeviceError, ModelLoadError
from service.engine.gpu import GpuOptions
from service.engine.providers import create_on_gpu
from service.engine.tensorrt import (
    MANIFEST,
    EngineKey,
    InputShape,
    check_unchanged,
    default_cache,
    engine_key,
    find_engines,
    input_shape,
    provider_options,
    write_manifest,
)


@pytest.fixture
def key(tmp_path: Path) -> EngineKey:
    return EngineKey(
        model="ab" * 32,
        gpu="NVIDIA L4, 8.9",
        tensorrt="101300",
        onnxruntime="1.31.1",
        max_batch_size=64,
        fp16=False,
        cache=tmp_path,
    )


def build(key: EngineKey) -> Path:
    key.folder.mkdir()
    (key.folder / "graph_sm89.engine").write_bytes(b"engine")
    (key.folder / "graph_sm89.profile").write_bytes(b"profile")
    write_manifest(key, key.folder, 12.34)
    return key.folder


def test_an_engine_that_was_built_is_found(key):
    folder = build(key)
    assert find_engines(key) == folder
    check_unchanged(folder)
    assert json.loads((folder / MANIFEST).read_text())["build_s"] == 12.3


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "cd" * 32},
        {"gpu": "NVIDIA T4, 7.5"},
        {"tensorrt": "101400"},
        {"onnxruntime": "1.32.0"},
        {"max_batch_size": 128},
        {"fp16": True},
    ],
)
def test_an_engine_for_anything_else_is_not_taken(key, changed):
    build(key)
    with pytest.raises(ModelLoadError, match="not in") as caught:
        find_engines(replace(key, **changed))
    assert "adaresnet build-engines" in caught.value.hint


@pytest.mark.parametrize("damage", ["none", "engine gone", "engine cut", "no JSON", "not ours"])
def test_a_folder_that_is_not_whole_is_not_taken(key, damage):
    if damage != "none":
        folder = build(key)
    if damage == "engine gone":
        (folder / "graph_sm89.engine").unlink()
    elif damage == "engine cut":
        (folder / "graph_sm89.engine").write_bytes(b"eng")
    elif damage == "no JSON":
        (folder / MANIFEST).write_text("{")
    elif damage == "not ours":
        (folder / MANIFEST).write_text("[]")
    with pytest.raises(ModelLoadError, match="not in"):
        find_engines(key)


def test_an_engine_that_is_built_while_loading_is_noticed(key):
    folder = build(key)
    (folder / "another_sm89.engine").write_bytes(b"engine")
    with pytest.raises(ModelLoadError, match="built another") as caught:
        check_unchanged(folder)
    assert "--rebuild" in caught.value.hint


def test_a_model_without_an_engine_gets_no_manifest(key):
    key.folder.mkdir()
    with pytest.raises(ModelLoadError, match="built no engine"):
        write_manifest(key, key.folder, 1.0)


def test_bounds_cover_all_batches(tmp_path):
    options = GpuOptions(max_batch_size=48, tensorrt_fp16=True)
    shape = InputShape("images", (None, 32, 24, 3))
    found = provider_options(Device("tensorrt", 1), options, tmp_path / "key", shape)
    assert found["device_id"] == "1"
    assert found["trt_fp16_enable"] == "1"
    assert found["trt_engine_cache_path"] == str(tmp_path / "key")
    assert found["trt_timing_cache_path"] == str(tmp_path)
    assert found["trt_profile_min_shapes"] == "images:1x32x24x3"
    assert found["trt_profile_max_shapes"] == "images:48x32x24x3"
    assert all(isinstance(value, str) for value in found.values())


def test_a_fixed_batch_needs_no_bounds(tmp_path):
    found = provider_options(
        Device("tensorrt"), GpuOptions(), tmp_path, InputShape("x", (4, 3, 32, 32))
    )
    assert not any("profile" in name for name in found)


@pytest.mark.parametrize("name", ["input:0", "a,b"])
def test_a_name_that_bounds_can_not_be_written_for(exported, tmp_path, name):
    bounded, fixed = InputShape(name, (None, 3, 8, 8)), InputShape(name, (4, 3, 8, 8))
    with pytest.raises(ModelLoadError, match=f"named {name!r}"):
        provider_options(Device("tensorrt"), GpuOptions(), tmp_path, bounded)
    provider_options(Device("tensorrt"), GpuOptions(), tmp_path, fixed)
    # It is the model's fault and not the GPU's, for who builds its engine too.
    model = onnx.load(exported.result.path)
    for node in model.graph.node:
        node.input[:] = [name if one == "images" else one for one in node.input]
    model.graph.input[0].name = name
    with pytest.raises(ModelLoadError, match=f"named {name!r}"):
        create_on_gpu(model.SerializeToString(), Device("tensorrt"), 1, GpuOptions(), tmp_path)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [(["N", 32, 32, 3], (None, 32, 32, 3)), ([4, 3, 8, 8], (4, 3, 8, 8)), ([None, 3, 8, 8], None)],
)
def test_input_shapes(shape, sizes):
    tensor = SimpleNamespace(name="images", shape=shape)
    graph = SimpleNamespace(get_inputs=lambda: [tensor])
    expected = sizes or (None, 3, 8, 8)
    assert input_shape(graph) == InputShape("images", expected)


def test_pictures_of_any_size_are_refused():
    tensor = SimpleNamespace(name="images", shape=["N", 3, "height", 8])
    with pytest.raises(ModelLoadError, match="one size"):
        input_shape(SimpleNamespace(get_inputs=lambda: [tensor]))


def test_the_cache_is_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "adaresnet" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "adaresnet" / "tensorrt"


def test_without_a_gpu_there_is_no_engine():
    with pytest.raises(DeviceError, match="TensorRT can't be used: there is no GPU 99"):
        engine_key("ab" * 32, Device("tensorrt", 99), GpuOptions())

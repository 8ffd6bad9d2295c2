from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.engine.batcher import BatcherOptions
from service.engine.errors import (
    DeviceError,
    ModelNotFoundError,
    ModelNotReadyError,
    VersionNotFoundError,
)
from service.engine.repository import ModelRepository
from service.engine.session import SessionOptions, cuda_built_in
from service.metadata import METADATA_KEY
from tests.conftest import Exported


@pytest.fixture
def root(exported: Exported, tmp_path: Path) -> Path:
    copy = tmp_path / "models"
    shutil.copytree(exported.repository, copy)
    return copy


@pytest.fixture
def repository(root):
    with ThreadPoolExecutor(1) as pool:
        yield ModelRepository(root, SessionOptions("cpu"), pool, BatcherOptions(8, 64))


def copy_version(root: Path, version: int) -> Path:
    folder = root / "colors" / str(version)
    shutil.copytree(root / "colors" / "1", folder)
    return folder / "model.onnx"


def rewrite(path: Path, old: str, new: str) -> None:
    """Change the metadata inside a model file."""
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            assert old in entry.value
            entry.value = entry.value.replace(old, new)
    onnx.save(model, path)


def test_finds_the_highest_version_by_default(root, repository):
    copy_version(root, 10)
    copy_version(root, 9)
    (root / "colors" / "draft").mkdir()
    assert not repository.ready
    repository.refresh()
    assert repository.ready
    assert repository.find(None, None, None).version == 10
    assert repository.find("colors", 9, None).version == 9
    assert sorted(repository.versions("colors")) == [1, 9, 10]


def test_unknown_names_list_what_there_is(repository):
    repository.refresh()
    with pytest.raises(ModelNotFoundError) as caught:
        repository.find("dogs", None, None)
    assert "colors" in caught.value.hint
    with pytest.raises(VersionNotFoundError) as missing:
        repository.find("colors", 7, None)
    assert "1" in missing.value.hint


def test_new_and_removed_versions_are_picked_up(root, repository):
    repository.refresh()
    first = repository.find("colors", None, None)
    copy_version(root, 2)
    repository.refresh()
    assert repository.find("colors", None, None).version == 2
    assert repository.find("colors", 1, None) is first
    shutil.rmtree(root / "colors" / "2")
    repository.refresh()
    assert repository.find("colors", None, None) is first
    assert first.session.run(np.zeros((1, 16, 16, 3), np.uint8)).logits.shape == (1, 3)


@pytest.mark.parametrize("content", [b"", b"not onnx", None])
def test_a_broken_new_version_leaves_the_old_one_serving(root, repository, content):
    repository.refresh()
    path = copy_version(root, 2)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    repository.refresh()
    assert repository.ready
    assert repository.find("colors", None, None).version == 1
    entry = repository.versions("colors")[2]
    assert entry.ready is None
    assert entry.error is not None
    with pytest.raises(ModelNotReadyError):
        repository.find("colors", 2, None)


def test_a_file_that_breaks_in_place_goes_on_serving_as_it_was(root, repository):
    repository.refresh()
    before = repository.find("colors", 1, None)
    path = root / "colors" / "1" / "model.onnx"
    path.write_bytes(b"half a file")
    repository.refresh()
    assert repository.find("colors", 1, None) is before
    assert repository.versions("colors")[1].error is not None


def test_a_changed_file_is_loaded_again(root, repository):
    repository.refresh()
    before = repository.find("colors", 1, None)
    rewrite(root / "colors" / "1" / "model.onnx", '"blue"', '"azure"')
    repository.refresh()
    after = repository.find("colors", 1, None)
    assert after.session.metadata.labels[0] == "azure"
    assert after.digest != before.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"filter":"bilinear"', '"filter":"nearest"'),
        ('"rule":"center_crop"', '"rule":"stretch"'),
        ('"height":16', '"height":17'),
        ('"labels":["blue",', '"labels":['),
        ('"schema_version":1', '"schema_version":99'),
    ],
)
def test_a_tampered_bundle_is_refused(root, repository, old, new):
    rewrite(root / "colors" / "1" / "model.onnx", old, new)
    repository.refresh()
    assert not repository.ready
    assert repository.versions("colors")[1].error is not None


def test_changed_weights_fail_the_golden_images(root, repository):
    path = root / "colors" / "1" / "model.onnx"
    model = onnx.load(path)
    bias = next(w for w in model.graph.initializer if w.name == "classifier.bias")
    bias.raw_data = (onnx.numpy_helper.to_array(bias) + np.float32(0.5)).tobytes()
    onnx.save(model, path)
    repository.refresh()
    error = repository.versions("colors")[1].error
    assert error is not None
    assert "golden" in error.detail


def test_an_empty_repository_is_not_ready(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        empty = ModelRepository(tmp_path, SessionOptions("cpu"), pool, BatcherOptions(8, 64))
        empty.refresh()
        assert not empty.ready
        with pytest.raises(ModelNotReadyError):
            empty.find(None, None, None)


@pytest.mark.skipif(cuda_built_in(), reason="this ONNX Runtime has a CUDA provider")
def test_a_demanded_gpu_that_is_not_there_is_an_error(root):
    with ThreadPoolExecutor(1) as pool:
        repository = ModelRepository(root, SessionOptions("cuda"), pool, BatcherOptions(8, 64))
        with pytest.raises(DeviceError) as caught:
            repository.refresh()
    assert "adaresnet[gpu]" in caught.value.hint

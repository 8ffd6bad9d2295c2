from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.engine.digest import BLANK_DIGEST, seal
from service.engine.errors import (
    DeviceError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    VersionNotFoundError,
)
from service.engine.instances import InstanceOptions
from service.engine.metrics import Metrics
from service.engine.plan import PlanOptions
from service.engine.probe import Probe, Tried
from service.engine.repository import RETRY_S, ModelRepository, RepositoryOptions
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
    return ModelRepository(options(root))


def options(root: Path, *, default: str | None = None, device: str = "cpu") -> RepositoryOptions:
    # What the probe does is tested in test_probe.py; here it would only take time.
    sessions = InstanceOptions(SessionOptions(device), lanes=1, cpus=1, plan=PlanOptions(8))
    return RepositoryOptions(root, default, sessions, probe=False)


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
    write(model, path)


def write(model: onnx.ModelProto, path: Path) -> None:
    """Save a changed model with a digest that fits, as one who changes it on purpose would."""
    data = model.SerializeToString()
    stated = re.search(rb'"file_digest":"([0-9a-f]{64})"', data)
    assert stated is not None
    path.write_bytes(seal(data.replace(stated[1], BLANK_DIGEST.encode())))


def test_finds_the_highest_version_by_default(root, repository):
    copy_version(root, 10)
    copy_version(root, 9)
    (root / "colors" / "draft").mkdir()
    assert repository.obstacle is not None
    repository.refresh()
    assert repository.obstacle is None
    assert repository.find(None, None).version == 10
    assert repository.find("colors", 9).version == 9
    assert sorted(repository.versions("colors")) == [1, 9, 10]


def test_unknown_names_list_what_there_is(repository):
    repository.refresh()
    with pytest.raises(ModelNotFoundError) as caught:
        repository.find("dogs", None)
    assert "colors" in caught.value.hint
    with pytest.raises(VersionNotFoundError) as missing:
        repository.find("colors", 7)
    assert "1" in missing.value.hint


def test_new_and_removed_versions_are_picked_up(root, repository):
    repository.refresh()
    first = repository.find("colors", None)
    copy_version(root, 2)
    repository.refresh()
    assert repository.find("colors", None).version == 2
    assert repository.find("colors", 1) is first
    shutil.rmtree(root / "colors" / "2")
    repository.refresh()
    assert repository.find("colors", None) is first
    assert first.session.run(np.zeros((1, 16, 16, 3), np.uint8)).logits.shape == (1, 3)


@pytest.mark.parametrize("content", [b"", b"not onnx", None])
def test_a_broken_new_version_leaves_the_old_one_serving(root, repository, content):
    repository.refresh()
    path = copy_version(root, 2)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    repository.refresh()
    assert repository.obstacle is None
    assert repository.find("colors", None).version == 1
    entry = repository.versions("colors")[2]
    assert entry.ready is None
    assert entry.error is not None
    with pytest.raises(ModelNotReadyError):
        repository.find("colors", 2)


def test_a_file_that_breaks_in_place_goes_on_serving_as_it_was(root, repository):
    repository.refresh()
    before = repository.find("colors", 1)
    path = root / "colors" / "1" / "model.onnx"
    path.write_bytes(b"half a file")
    repository.refresh()
    assert repository.find("colors", 1) is before
    assert repository.versions("colors")[1].error is not None


def test_a_changed_file_is_loaded_again(root, repository):
    repository.refresh()
    before = repository.find("colors", 1)
    rewrite(root / "colors" / "1" / "model.onnx", '"blue"', '"azure"')
    repository.refresh()
    after = repository.find("colors", 1)
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
    assert repository.obstacle is not None
    assert repository.versions("colors")[1].error is not None


def test_changed_weights_fail_the_golden_images(root, repository):
    path = root / "colors" / "1" / "model.onnx"
    model = onnx.load(path)
    bias = next(w for w in model.graph.initializer if w.name == "classifier.bias")
    bias.raw_data = (onnx.numpy_helper.to_array(bias) + np.float32(0.5)).tobytes()
    write(model, path)
    repository.refresh()
    error = repository.versions("colors")[1].error
    assert error is not None
    assert "golden" in error.detail


def test_a_change_too_small_for_the_golden_images_is_found_by_the_digest(root, repository):
    path = root / "colors" / "1" / "model.onnx"
    model = onnx.load(path)
    bias = next(w for w in model.graph.initializer if w.name == "classifier.bias")
    bias.raw_data = (onnx.numpy_helper.to_array(bias) + np.float32(1e-7)).tobytes()
    onnx.save(model, path)
    repository.refresh()
    error = repository.versions("colors")[1].error
    assert error is not None
    assert "digest" in error.detail


def test_an_empty_repository_is_not_ready(tmp_path):
    empty = ModelRepository(options(tmp_path))
    empty.refresh()
    assert empty.obstacle == "there is no model"
    with pytest.raises(ModelNotReadyError):
        empty.find(None, None)


@pytest.mark.skipif(cuda_built_in(), reason="this ONNX Runtime has a CUDA provider")
def test_a_demanded_gpu_that_is_not_there_is_an_error(root):
    repository = ModelRepository(options(root, device="cuda"))
    with pytest.raises(DeviceError) as caught:
        repository.refresh()
    assert "adaresnet[gpu]" in caught.value.hint


def test_a_folder_that_can_not_be_read_unloads_nothing(root, repository):
    repository.refresh()
    moved = root.rename(root.with_name("away"))
    with pytest.raises(FileNotFoundError):
        repository.refresh()
    assert repository.obstacle is None
    assert repository.find("colors", None).version == 1
    moved.rename(root)
    repository.refresh()
    assert repository.obstacle is None


def test_a_model_folder_that_can_not_be_read_unloads_nothing(root, repository, monkeypatch):
    shutil.copytree(root / "colors", root / "second")
    repository.refresh()
    second = repository.find("second", None)
    iterdir = Path.iterdir

    def denied(path: Path) -> Iterator[Path]:
        if path.name == "second":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    copy_version(root, 2)
    repository.refresh()
    assert repository.find("second", None) is second
    assert repository.find("colors", None).version == 2


def test_one_odd_file_does_not_keep_the_others_from_being_served(root, repository):
    path = copy_version(root, 2)
    data = path.read_bytes()
    position = data.index(b"schema_version")
    path.write_bytes(data[:position] + b"\xff" + data[position + 1 :])
    for junk in ("0x1", "01", "-1", "latest", "9" * 30):
        shutil.copytree(root / "colors" / "1", root / "colors" / junk)
    (root / "colors" / "3").write_text("no folder")
    (root / "README.md").write_text("no model")
    (root / "empty").mkdir()
    os.mkfifo(copy_version(root, 4).with_name("pipe"))
    (root / "colors" / "4" / "model.onnx").unlink()
    (root / "colors" / "4" / "pipe").rename(root / "colors" / "4" / "model.onnx")
    shutil.copytree(root / "colors", root / ".hidden", ignore=shutil.ignore_patterns("4"))
    (root / os.fsdecode(b"\xff\n")).mkdir()
    repository.refresh()
    assert list(repository.catalog) == ["colors"]
    assert sorted(repository.versions("colors")) == [1, 2]
    assert repository.find("colors", None).version == 1
    assert repository.versions("colors")[2].error is not None


def test_nothing_is_loaded_twice_and_failures_are_tried_again(root, repository, monkeypatch):
    path = copy_version(root, 2)
    path.write_bytes(b"broken")
    repository.refresh()
    before = repository.catalog
    repository.refresh()
    assert repository.versions("colors")[1] is before["colors"][1]
    assert repository.versions("colors")[2] is before["colors"][2]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + RETRY_S + 1)
    repository.refresh()
    assert repository.versions("colors")[1] is before["colors"][1]
    assert repository.versions("colors")[2] is not before["colors"][2]


def test_failures_that_stay_are_tried_ever_more_rarely(root, repository, monkeypatch):
    copy_version(root, 2).write_bytes(b"broken")
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waits = []
    for _ in range(9):
        repository.refresh()
        entry = repository.versions("colors")[2]
        waits.append(entry.retry_at_s - now)
        now = entry.retry_at_s + 1
    assert waits == [RETRY_S * 2**tries for tries in range(6)] + [3600.0] * 3


def test_a_configuration_is_watched_like_the_model(root, repository):
    repository.refresh()
    first = repository.find("colors", 1)
    config = root / "colors" / "config.toml"
    config.write_text("labels = ['a', 'b', 'c']")
    repository.refresh()
    renamed = repository.find("colors", 1)
    assert renamed.session.metadata.labels == ["a", "b", "c"]
    assert renamed.digest == first.digest
    assert renamed.config_digest is not None
    config.write_text("labels = ['a', 'b']")
    repository.refresh()
    assert repository.find("colors", 1) is renamed
    error = repository.versions("colors")[1].error
    assert error is not None
    assert error.detail == "config.toml: labels has 2 entries; the model has 3."
    config.unlink()
    repository.refresh()
    assert repository.find("colors", 1).session.metadata.labels == first.session.metadata.labels
    assert repository.versions("colors")[1].error is None


def test_every_file_is_tried_in_a_process_of_its_own(root):
    copy_version(root, 2).write_bytes(b"broken")
    repository = ModelRepository(replace(options(root), probe=True))
    repository.refresh()
    assert repository.find("colors", None).version == 1
    error = repository.versions("colors")[2].error
    assert error is not None
    assert error.detail.startswith("The file is no ONNX model, or a damaged one")
    repository.close()
    copy_version(root, 3)
    repository.refresh()  # begins nothing more
    assert set(repository.versions("colors")) == {1, 2}


def test_a_file_that_changes_between_trial_and_loading(root, monkeypatch):
    repository = ModelRepository(replace(options(root), probe=True))
    monkeypatch.setattr(Probe, "try_out", lambda *_: Tried("another", None))
    repository.refresh()
    error = repository.versions("colors")[1].error
    assert error is not None
    assert error.detail == "The file changed while it was being loaded."


def test_a_missing_default_is_not_ready(root):
    repository = ModelRepository(options(root, default="typo"))
    repository.refresh()
    assert repository.obstacle is not None
    with pytest.raises(ModelNotFoundError):
        repository.find(None, None)


def test_a_broken_model_keeps_only_strict_services_from_being_ready(root):
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"broken")
    for strict, default, obstacle in (
        (False, None, None),
        (False, "colors", None),
        (False, "broken", "can't answer: broken"),
        (True, None, "can't answer: broken"),
    ):
        repository = ModelRepository(
            replace(options(root, default=default), strict_readiness=strict)
        )
        repository.refresh()
        assert repository.obstacle == obstacle
        if default is None:  # it would be the first by name
            assert repository.find(None, None).name == "colors"


def test_a_stop_is_no_failure_of_the_model_that_is_being_loaded(root, monkeypatch, caplog):
    metrics = Metrics()
    repository = ModelRepository(options(root), metrics)

    def interrupted(*_: object) -> None:
        repository.close()
        raise ModelLoadError("The process that tries model files has ended.", hint="")

    monkeypatch.setattr("service.engine.loading.read_bundle", interrupted)
    repository.refresh()
    assert repository.catalog == {}
    assert caplog.text == ""
    assert b"adaresnet_model_loads_total{" not in metrics.render()


def test_a_model_removed_on_purpose_does_not_make_the_service_unready(root, repository):
    shutil.copytree(root / "colors", root / "second")
    repository.refresh()
    shutil.rmtree(root / "second")
    repository.refresh()
    assert repository.obstacle is None


def test_a_device_that_fails_later_is_the_files_trouble(root, repository, monkeypatch):
    repository.refresh()
    copy_version(root, 2)

    def out_of_memory(*_: object) -> None:
        raise DeviceError("CUDA can't be used: out of memory.", hint="none")

    monkeypatch.setattr("service.engine.loading.Instances", out_of_memory)
    repository.refresh()
    assert repository.find("colors", None).version == 1
    error = repository.versions("colors")[2].error
    assert error is not None
    assert "out of memory" in error.detail


def test_before_the_first_look_a_model_is_not_ready_rather_than_unknown(repository):
    with pytest.raises(ModelNotReadyError, match="still being loaded"):
        repository.find("colors", None)
    repository.refresh()
    with pytest.raises(ModelNotFoundError):
        repository.find("dogs", None)

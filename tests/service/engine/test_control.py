"""Loading and unloading on demand, with real models."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from service.engine import control
from service.engine.errors import ModelLoadError, ModelNotFoundError, ModelNotReadyError
from service.engine.instances import InstanceOptions
from service.engine.plan import PlanOptions
from service.engine.repository import UNLOADED, ModelRepository, RepositoryOptions
from service.engine.session import SessionOptions
from tests.conftest import Exported


@pytest.fixture
def root(exported: Exported, tmp_path: Path) -> Path:
    copy = tmp_path / "models"
    shutil.copytree(exported.repository, copy)
    shutil.copytree(copy / "colors", copy / "second")
    return copy


def open_repository(root: Path, shared: Path | None = None) -> ModelRepository:
    sessions = InstanceOptions(SessionOptions("cpu"), lanes=1, cpus=1, plan=PlanOptions(8))
    repository = ModelRepository(
        RepositoryOptions(root, None, sessions, probe=False, shared=shared, strict_readiness=True)
    )
    repository.refresh()
    return repository


@pytest.fixture
def repository(root: Path) -> ModelRepository:
    return open_repository(root)


def test_an_unloaded_model_is_gone_at_once_and_stays_away(repository: ModelRepository, root: Path):
    kept, gone = repository.find("second", None), repository.find("colors", None)
    control.unload(repository, "colors")
    for _ in range(2):
        with pytest.raises(ModelNotReadyError, match="unloaded"):
            repository.find("colors", None)
        with pytest.raises(ModelNotReadyError, match="unloaded"):
            repository.find("colors", 1)
        assert set(repository.versions("colors").values()) == {UNLOADED}
        assert repository.find("second", None) is kept
        assert repository.find(None, None) is kept  # though "colors" is the first by name
        assert repository.obstacle is None
        shutil.copytree(root / "colors" / "1", root / "colors" / "2", dirs_exist_ok=True)
        repository.refresh()
    assert gone.session.metadata.labels  # who has it still can use it


def test_it_comes_back_when_it_is_loaded(repository: ModelRepository):
    before = repository.find("colors", None)
    control.unload(repository, "colors")
    control.load(repository, "colors")
    after = repository.find("colors", None)
    assert after is not before
    assert after.digest == before.digest
    control.load(repository, "colors")
    assert repository.find("colors", None) is after  # nothing has changed


def test_with_all_unloaded_the_service_is_not_ready(repository: ModelRepository):
    for name in ("colors", "second"):
        control.unload(repository, name)
    assert repository.obstacle == "there is no model"
    with pytest.raises(ModelNotReadyError):
        repository.find(None, None)


def test_loading_tries_what_failed_again_and_says_why_it_fails(
    repository: ModelRepository, root: Path
):
    broken = root / "colors" / "2"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"broken")
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="Version 2"):
            control.load(repository, "colors")
    assert repository.versions("colors")[2].failures == 2
    assert repository.find("colors", None).version == 1
    control.load(repository, "second")
    assert repository.versions("colors")[2].failures == 2  # tried again of itself, later
    shutil.rmtree(broken)
    control.load(repository, "colors")


@pytest.mark.parametrize("name", ["dogs", "..", "../colors", "", "a\0b", "x" * 300])
def test_names_that_are_none(repository: ModelRepository, root: Path, name):
    for do in (control.load, control.unload):
        with pytest.raises(ModelNotFoundError):
            do(repository, name)
    assert sorted(path.name for path in root.iterdir()) == ["colors", "second"]


def test_a_folder_that_can_not_be_read_is_said(repository: ModelRepository, root: Path):
    moved = root.rename(root.with_name("away"))
    with pytest.raises(ModelLoadError, match="No such file"):
        control.load(repository, "colors")
    assert repository.find("colors", None).version == 1
    moved.rename(root)


def test_a_model_unloaded_while_the_folder_is_looked_at_does_not_come_back(
    repository: ModelRepository, root: Path, monkeypatch
):
    """The look began before, and would end with the model in its catalog."""
    shutil.copytree(root / "second", root / "third")
    begun, go_on = threading.Event(), threading.Event()
    load = repository._loader.load

    def slowly(path: Path) -> object:
        begun.set()
        assert go_on.wait(30)
        return load(path)

    monkeypatch.setattr(repository._loader, "load", slowly)
    looking = threading.Thread(target=repository.refresh)
    looking.start()
    assert begun.wait(30)
    assert repository.loading == {("third", 1)}
    control.unload(repository, "colors")
    assert repository.versions("colors") == {1: UNLOADED}
    go_on.set()
    looking.join(60)
    assert repository.versions("colors") == {1: UNLOADED}
    assert repository.find("third", None).version == 1
    assert not repository.loading


def test_workers_follow_each_other(root: Path, tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    one, other = open_repository(root, shared), open_repository(root, shared)
    assert not control.follow(other)
    control.unload(one, "colors")
    assert control.follow(other)
    assert other.versions("colors") == {1: UNLOADED}
    assert not control.follow(other)
    later = open_repository(root, shared)
    assert later.versions("colors") == {1: UNLOADED}
    control.load(one, "colors")
    assert control.follow(other)
    other.refresh()
    assert other.find("colors", None).version == 1
    # Of a model that was there all along, too: its files are to be looked at now.
    control.load(one, "second")
    assert control.follow(other)

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.engine.unloaded import Unloaded


@pytest.mark.parametrize("shared", [False, True])
def test_names_come_and_go(tmp_path: Path, shared):
    unloaded = Unloaded(tmp_path / "unloaded" if shared else None)
    assert unloaded.names() == frozenset()
    unloaded.add("a")
    unloaded.add("b.1-x_Y")
    unloaded.add("a")
    assert unloaded.names() == {"a", "b.1-x_Y"}
    unloaded.discard("a")
    unloaded.discard("never")
    assert unloaded.names() == {"b.1-x_Y"}


def test_what_one_worker_changes_the_others_see(tmp_path: Path):
    one, other = Unloaded(tmp_path / "unloaded"), Unloaded(tmp_path / "unloaded")
    assert not other.changed()
    one.add("a")
    assert other.changed()
    assert not other.changed()
    assert other.names() == {"a"}
    assert Unloaded(tmp_path / "unloaded").names() == {"a"}  # one that begins later
    other.discard("a")
    assert one.changed()
    assert one.names() == frozenset()


def test_a_folder_that_is_gone_changes_nothing_more(tmp_path: Path):
    unloaded = Unloaded(tmp_path / "unloaded")
    unloaded.add("a")
    assert unloaded.changed()
    shutil.rmtree(tmp_path / "unloaded")
    assert unloaded.names() == {"a"}

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.engine.errors import ModelLoadError
from service.engine.onnx_file import check_model_file
from service.engine.packing import read_packed
from tests.service.foreign_models import torch_legacy


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A model with its weights in a file beside it."""
    folder = tmp_path / "split"
    folder.mkdir()
    torch_legacy(folder / "whole.onnx", size=32)
    model = onnx.load(folder / "whole.onnx")
    onnx.save(
        model, folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    return folder


def relocate(folder: Path, key: str, value: str) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def test_one_file_has_the_same_weights(split):
    packed = onnx.load_from_string(read_packed(split / "model.onnx"))
    check_model_file(packed.SerializeToString())
    onnx.checker.check_model(packed)
    whole = {t.name: onnx.numpy_helper.to_array(t) for t in packed.graph.initializer}
    for tensor in onnx.load(split / "whole.onnx").graph.initializer:
        assert np.array_equal(whole[tensor.name], onnx.numpy_helper.to_array(tensor))


def test_a_file_that_is_whole_stays_as_it_is(split):
    assert read_packed(split / "whole.onnx") == (split / "whole.onnx").read_bytes()


@pytest.mark.parametrize(
    "location",
    ["/etc/hostname", "../secret", "a/../../secret", "C:\\secret", "..\\secret", "", "."],
)
def test_weights_that_leave_the_folder(split, location):
    (split.parent / "secret").write_bytes(b"secret" * 10_000)
    relocate(split, "location", location)
    with pytest.raises(ModelLoadError, match=r"leaves its folder|is no file"):
        read_packed(split / "model.onnx")


def test_a_link_that_leaves_the_folder(split):
    (split / "w.bin").rename(split.parent / "w.bin")
    (split / "w.bin").symlink_to(split.parent / "w.bin")
    with pytest.raises(ModelLoadError, match="leaves its folder"):
        read_packed(split / "model.onnx")


def test_a_download_cache_with_links_to_both(split):
    blobs = split.parent / "blobs"
    blobs.mkdir()
    for name in ("w.bin", "model.onnx"):
        (split / name).rename(blobs / name[::-1])
        (split / name).symlink_to(blobs / name[::-1])
    assert len(read_packed(split / "model.onnx")) > 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [("length", "9" * 12), ("length", "9" * 5000), ("offset", "9" * 12), ("offset", "-1")],
)
def test_numbers_that_can_not_be(split, key, value):
    relocate(split, key, value)
    with pytest.raises(ModelLoadError, match=r"too few bytes|no numbers"):
        read_packed(split / "model.onnx")


def test_weights_that_are_missing_or_no_file(split):
    (split / "w.bin").unlink()
    with pytest.raises(ModelLoadError, match=r"'w\.bin' can't be read: No such file"):
        read_packed(split / "model.onnx")
    os.mkfifo(split / "w.bin")
    with pytest.raises(ModelLoadError, match=r"'w\.bin' is no file"):
        read_packed(split / "model.onnx")

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from service.metadata import Resize
from tests.conftest import CLASSES, REAL_DATA
from training.data.augment import channel_statistics, cut_out, random_views, to_channels
from training.data.dataset import DataError, load_data

RESIZE = Resize()


def test_an_image_folder(image_folder):
    data = load_data(str(image_folder), None, RESIZE, seed=0)
    assert data.class_names == CLASSES
    assert data.train.pixels.shape == (192, 16, 16, 3)
    assert data.train.pixels.dtype == torch.uint8
    assert len(data.test) == 48
    assert not data.grey
    brightest = data.test.pixels.float().mean(dim=(1, 2)).argmax(dim=1)
    assert (brightest == 2 - data.test.labels).all()  # blue, green, red is b, g, r


def test_a_folder_without_a_test_split_holds_some_out(image_folder):
    data = load_data(str(image_folder / "train"), 8, RESIZE, seed=3)
    assert data.test_name == "held out"
    assert (len(data.train), len(data.test)) == (172, 20)
    assert data.train.pixels.shape[1:3] == (8, 8)
    again = load_data(str(image_folder / "train"), 8, RESIZE, seed=3)
    assert torch.equal(data.test.pixels, again.test.pixels)


def test_a_folder_of_parquet_files(tmp_path):
    import datasets

    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(buffer, "PNG")
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["x", "y"])}
    )
    for split, count in (("train", 6), ("test", 2)):
        rows = {
            "picture": [{"bytes": buffer.getvalue(), "path": None}] * count,
            "kind": [0, 1] * (count // 2),
        }
        table = datasets.Dataset.from_dict(rows, features)
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    data = load_data(str(tmp_path), None, RESIZE, seed=0)
    assert data.class_names == ("x", "y")
    assert data.grey
    assert (data.train.pixels == 7).all()
    assert data.train.labels.tolist() == [0, 1] * 3


def test_what_can_not_be_read_is_named(tmp_path, image_folder):
    for name in (str(tmp_path / "nowhere"), "mnist", "../mnist", "a/b/c", __file__):
        with pytest.raises(DataError, match="owner/name"):
            load_data(name, None, RESIZE, seed=0)
    for name in ("a", "b"):
        folder = tmp_path / "broken" / "train" / name
        folder.mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
    (tmp_path / "broken" / "train" / "b" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png"):
        load_data(str(tmp_path / "broken"), None, RESIZE, seed=0)


def test_luma_is_pillows():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    ours = to_channels(torch.from_numpy(pixels)[None], grey=True)[0, 0] * 255
    theirs = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    assert np.abs(ours.numpy() - theirs).max() < 1


def test_channel_statistics():
    pixels = torch.randint(0, 256, (10, 4, 4, 3), dtype=torch.uint8)
    mean, std = channel_statistics(pixels, grey=False)
    flat = pixels.double().reshape(-1, 3) / 255
    assert mean == pytest.approx(flat.mean(dim=0).tolist(), abs=1e-6)
    assert std == pytest.approx(flat.std(dim=0, correction=0).tolist(), abs=1e-5)


def test_cutout_blanks_one_square_of_each_image():
    pixels = torch.zeros(200, 9, 9, 3, dtype=torch.uint8)
    blanked = cut_out(pixels, 4, torch.Generator().manual_seed(0)) == 128
    assert (blanked == blanked[..., :1]).all()
    sizes = set()
    for picture in blanked[..., 0]:
        rows, columns = picture.any(dim=1), picture.any(dim=0)
        assert torch.equal(picture, rows.unsqueeze(1) & columns)
        assert rows.diff().sum() <= 2
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert max(sizes) == (4, 4)
    assert min(sizes)[0] >= 2
    assert cut_out(pixels, 0, torch.Generator()) is pixels


def test_views_are_shifted_and_mirrored_copies_with_reflected_edges():
    pixels = torch.randint(0, 256, (20, 6, 6, 3), dtype=torch.uint8)
    index = torch.arange(20)
    views = random_views(pixels, index, 2, flip=True, generator=torch.Generator().manual_seed(0))
    padded = np.pad(pixels.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    seen = set()
    for picture, view in zip(padded, views.numpy(), strict=True):
        matches = [
            (row, column, mirrored)
            for row in range(5)
            for column in range(5)
            for mirrored in (False, True)
            if (
                picture[row : row + 6, column : column + 6][:, :: -1 if mirrored else 1] == view
            ).all()
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 10
    same = random_views(pixels, index, 0, flip=False, generator=torch.Generator())
    assert torch.equal(same, pixels)


@pytest.mark.data
@pytest.mark.skipif(not (REAL_DATA / "mnist").is_dir(), reason=f"no data in {REAL_DATA}")
def test_the_real_mnist():
    data = load_data(str(REAL_DATA / "mnist"), None, RESIZE, seed=0)
    assert data.class_names == tuple("0123456789")
    assert data.grey
    assert data.train.pixels.shape == (60_000, 28, 28, 3)
    assert len(data.test) == 10_000

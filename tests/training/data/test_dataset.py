from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import CLASSES, REAL_DATA
from tests.training.data.conftest import Write
from tests.training.data.loading import load
from training.data.augment import channel_statistics
from training.data.dataset import DataError, LoadOptions, Split, StreamedSplit

SKIP = LoadOptions(bad_files="skip")
STREAM = LoadOptions(memory_bytes=0, workers=2)


def spoil(pets: Path, write: Write) -> set[str]:
    """Bad files of every kind; returns their names."""
    cat = pets / "train" / "cat"
    (cat / "empty.jpg").touch()
    whole = write(cat / "cut.jpg", size=(200, 200)).read_bytes()
    (cat / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "test" / "dog" / "text.png").write_text("no picture")
    (pets / "test" / "dog" / "iphone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (cat / "gone.png").symlink_to(pets / "nowhere.png")
    return {"empty.jpg", "cut.jpg", "text.png", "iphone.HEIC", "gone.png"}


def test_an_image_folder(image_folder):
    data, said = load(image_folder, None)
    assert said == ""
    assert data.class_names == CLASSES
    assert isinstance(data.train, Split)
    assert isinstance(data.test, Split)
    assert data.train.pixels.shape == (192, 16, 16, 3)
    assert data.train.pixels.dtype == torch.uint8
    assert data.train.image_px == 16
    assert len(data.test) == 48
    assert not data.grey
    brightest = data.test.pixels.float().mean(dim=(1, 2)).argmax(dim=1)
    assert (brightest == 2 - data.test.labels).all()  # blue, green, red is b, g, r


def test_a_folder_without_a_test_split_holds_some_out(image_folder):
    data, _ = load(image_folder / "train", seed=3)
    assert data.test_name == "held out"
    assert (len(data.train), len(data.test)) == (172, 20)
    assert data.train.image_px == 8
    again, _ = load(image_folder / "train", seed=3)
    assert torch.equal(data.test.in_memory().pixels, again.test.in_memory().pixels)
    other, _ = load(image_folder / "train", seed=4)
    assert not torch.equal(data.test.labels, other.test.labels)


def test_a_source_that_is_nothing_is_refused(tmp_path):
    for name in (str(tmp_path / "nowhere"), "mnist", "../mnist", "a/b/c", __file__):
        with pytest.raises(DataError, match="owner/name"):
            load(Path(name))


@pytest.mark.parametrize("memory_bytes", [None, 0])
def test_all_bad_files_are_named_before_refusing(pets, write, memory_bytes):
    names = spoil(pets, write)
    with pytest.raises(DataError) as caught:
        load(pets, None, LoadOptions(memory_bytes=memory_bytes))
    text = str(caught.value)
    assert text.startswith("5 of 19 pictures can't be used:")
    assert all(f"/{name}: " in text for name in names)
    assert "--bad-files skip" in text


@pytest.mark.parametrize("memory_bytes", [None, 0])
def test_bad_files_are_left_out_as_asked(pets, write, memory_bytes):
    clean, _ = load(pets)
    names = spoil(pets, write)
    data, said = load(pets, 8, LoadOptions(bad_files="skip", memory_bytes=memory_bytes))
    assert data.skipped == 5
    assert "left out 5 of 19 pictures" in said
    assert all(name in said for name in names)
    assert data.digest == clean.digest
    assert torch.equal(data.train.in_memory().pixels, clean.train.in_memory().pixels)


def test_of_many_bad_files_ten_are_named(pets):
    for index in range(300):
        (pets / "train" / "dog" / f"bad {index:03}.jpg").write_bytes(b"x")
    with pytest.raises(DataError) as caught:
        load(pets, None)
    text = str(caught.value)
    assert text.startswith("300 of 314 pictures")
    assert text.count("bad 0") == 10
    assert "and 290 more" in text


def test_a_first_file_that_is_bad_does_not_decide_the_size(pets):
    (pets / "train" / "cat" / "0.png").write_bytes(b"x")
    data, _ = load(pets, None, SKIP)
    assert data.train.image_px == 12


def test_nothing_readable_is_an_error_of_its_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(3):
            (tmp_path / name / f"{index}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="none of the 6 training pictures can be read"):
        load(tmp_path, None, SKIP)
    with pytest.raises(DataError, match="are left"):
        load(tmp_path, 8, SKIP)


@pytest.mark.parametrize("memory_bytes", [None, 0])
def test_one_picture_under_two_labels_is_mislabelled(pets, write, memory_bytes):
    clean, _ = load(pets)
    write(pets / "train" / "cat" / "mine.png", look=1)
    write(pets / "train" / "dog" / "copy.bmp", look=1)  # other bytes, same pixels
    write(pets / "test" / "dog" / "third.png", look=1)
    with pytest.raises(DataError) as caught:
        load(pets, None, LoadOptions(memory_bytes=memory_bytes))
    text = str(caught.value)
    assert text.startswith("3 of 17 pictures")
    assert "train/cat/mine.png: labelled 'cat', but the same picture is labelled 'dog' as" in text
    assert "train/dog/copy.bmp: labelled 'dog', but the same picture is labelled 'cat'" in text
    options = LoadOptions(bad_files="skip", memory_bytes=memory_bytes)
    data, _ = load(pets, 8, options)
    assert data.skipped == 3
    assert data.digest == clean.digest
    assert channel_statistics(data.train, grey=False) == channel_statistics(clean.train, grey=False)


def test_copies_under_one_label_are_fine_and_leaks_are_counted(pets, write):
    write(pets / "train" / "cat" / "x.png", look=1)
    write(pets / "train" / "cat" / "y.png", look=1)
    data, said = load(pets, None)
    assert (len(data.train), said) == (12, "")
    write(pets / "test" / "cat" / "z.png", look=1)
    data, said = load(pets, None)
    assert (len(data.test), data.skipped) == (5, 0)
    assert said.startswith("1 of 5 test pictures are among the training pictures too")


def test_the_size_that_is_chosen_is_said(tmp_path, write):
    for name in ("a", "b"):
        for index in range(3):
            write(tmp_path / name / f"{index}.png", size=(20, 10) if index else (16, 16))
    data, said = load(tmp_path, None)
    assert data.train.image_px == 16
    assert "differ in size, from 16 x 16 to 20 x 10: all are brought to 16 px" in said
    assert "--image-px" in said
    assert load(tmp_path, 8)[1] == ""
    write(tmp_path / "a" / "0.png", size=(513, 20))
    data, said = load(tmp_path, None)
    assert data.train.image_px == 224
    assert "the first picture is 513 x 20: pictures are brought to 224 px" in said
    write(tmp_path / "a" / "0.png", size=(3, 2))
    assert load(tmp_path, None)[0].train.image_px == 8


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_streamed_load_equals_one_in_memory(tmp_path, write, mode):
    for name in ("a", "b", "c"):
        for index in range(7):
            write(tmp_path / name / f"{index}.png", mode=mode, size=(14, 11))
    whole, _ = load(tmp_path, 10)
    streamed, said = load(tmp_path, 10, STREAM)
    assert isinstance(streamed.train, StreamedSplit)
    assert "batch by batch" in said
    assert "checked 21 of 21 pictures" in said
    assert streamed.checked_digest == streamed.digest == whole.digest
    assert streamed.grey == whole.grey == (mode == "L")
    assert streamed.train.image_px == 10
    for ours, theirs in ((streamed.train, whole.train), (streamed.test, whole.test)):
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.in_memory().pixels, theirs.in_memory().pixels)
        for grey in (False, True):
            assert channel_statistics(ours, grey=grey) == channel_statistics(theirs, grey=grey)


def test_sets_in_part_grey_are_none(tmp_path, write):
    rng = np.random.default_rng(0)
    for index in range(1500):  # more than one chunk
        pixels = rng.integers(0, 256, (64, 64, 1), dtype=np.uint8).repeat(3, axis=2)
        pixels[..., 0] += index > 1400
        path = tmp_path / "train" / ("a" if index < 700 else "b") / f"{index:04}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    for name in ("a", "b"):
        write(tmp_path / "test" / name / "1.png", size=(64, 64))
    whole, _ = load(tmp_path, None)
    streamed, _ = load(tmp_path, None, STREAM)
    assert streamed.digest == whole.digest
    assert not streamed.grey
    assert not whole.grey
    for grey in (False, True):
        ours = channel_statistics(streamed.train, grey=grey)
        np.testing.assert_allclose(ours, channel_statistics(whole.train, grey=grey), rtol=1e-12)


def test_a_set_is_streamed_only_above_the_limit(pets):
    limit = 14 * 8 * 8 * 3
    assert isinstance(load(pets, 8, LoadOptions(memory_bytes=limit))[0].train, Split)
    assert isinstance(load(pets, 8, LoadOptions(memory_bytes=limit - 1))[0].train, StreamedSplit)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "digest", "grey", "counts"),
    [
        ("mnist", "ce7263c3f0d9f3b4", True, (60_000, 10_000)),
        ("cifar10", "4ffa49580cfd6a3c", False, (50_000, 10_000)),
    ],
)
def test_real_data_keeps_the_digest_in_shipped_models(name, digest, grey, counts):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"no data in {REAL_DATA}")
    data, _ = load(REAL_DATA / name, None)
    assert (data.digest, data.grey, data.skipped) == (digest, grey, 0)
    assert (len(data.train), len(data.test)) == counts
    assert len(data.class_names) == 10

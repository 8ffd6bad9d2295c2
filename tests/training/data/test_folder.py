from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.training.data.loading import load
from training.data.dataset import DataError, ImageData, LoadOptions
from training.data.folder import list_folder

SKIP = LoadOptions(bad_files="skip")


def classes_of(data: ImageData) -> list[str]:
    return [data.class_names[label] for label in data.train.labels.tolist()]


def test_class_folders_in_a_folder_with_everything_else(tmp_path, write):
    root = tmp_path / "My Pictures äöü [2024]"
    for index in range(4):
        write(root / "Käse brot" / f"IMG {index} (1) [x].JPG")
        write(root / "dog" / f"photo-test-{index}.jpeg")
    write(root / "dog" / "a.webp")
    write(root / "dog" / "deeper" / "summer" / "b.PNG")
    write(root / "dog" / "rgba.png", mode="RGBA")
    write(root / "dog" / "cmyk.jpg", mode="CMYK")
    write(root / "dog" / "palette.gif", mode="P")
    Image.fromarray(np.arange(0, 60_000, 600, dtype=np.uint16).reshape(10, 10)).save(
        root / "dog" / "16-bit.png"
    )
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    frames[0].save(root / "dog" / "moves.gif", save_all=True, append_images=frames[1:])
    for name in ("Thumbs.db", ".DS_Store", "dog/desktop.ini", "dog/._a.webp", "notes.txt"):
        (root / name).write_bytes(b"x")
    (root / "empty").mkdir()
    (root / ".git" / "x").mkdir(parents=True)
    data, said = load(root)
    assert data.class_names == ("Käse brot", "dog")
    assert data.test_name == "held out"
    assert len(data.train) + len(data.test) == 4 + 4 + 7
    assert data.skipped == 0
    assert "left alone, being no pictures: 1 .txt" in said
    assert "class folders without pictures: empty" in said
    assert "left out" not in said


def test_a_phones_photo_is_turned_and_a_huge_one_is_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    for index in range(3):
        picture = Image.fromarray(np.roll(upright, index, axis=1) - index)
        picture.save(tmp_path / "a" / f"{index}.png", exif=exif)
    Image.linear_gradient("L").resize((4000, 3000)).save(tmp_path / "b" / "huge.jpg", quality=20)
    Image.new("L", (8064, 6048), 3).save(tmp_path / "b" / "48 megapixels.png")
    data, _ = load(tmp_path)
    for split in (data.train, data.test):
        of_a = split.in_memory().pixels[split.labels == 0]
        assert (of_a[:, 4:].float().mean(dim=(1, 2, 3)) > 200).all()


@pytest.mark.parametrize(
    ("folders", "test_name"),
    [
        (("train", "test"), "test"),
        (("Train", "Test"), "test"),
        (("training", "val"), "validation"),
        (("train", "validation"), "validation"),
        (("train", "valid"), "validation"),
    ],
)
def test_split_folders_by_the_names_they_have(tmp_path, write, folders, test_name):
    for split, count in zip(folders, (4, 1), strict=True):
        for index in range(count):
            write(tmp_path / split / "cat" / f"{index}.png")
            write(tmp_path / split / "dog" / f"{index}.png")
    data, _ = load(tmp_path)
    assert (data.test_name, len(data.train), len(data.test)) == (test_name, 8, 2)
    assert classes_of(data) == ["cat"] * 4 + ["dog"] * 4


def test_with_test_and_validation_the_test_pictures_are_taken(pets, write):
    write(pets / "val" / "cat" / "0.png")
    data, said = load(pets)
    assert (data.test_name, len(data.test)) == ("test", 4)
    assert "neither training nor test pictures: val" in said


def test_pictures_of_trains_are_a_class(tmp_path, write):
    for name in ("train", "bus", "freight-train"):
        for index in range(3):
            write(tmp_path / name / f"{index}.png")
    data, _ = load(tmp_path)
    assert data.class_names == ("bus", "freight-train", "train")
    assert data.test_name == "held out"


def test_one_class_name_in_two_unicode_forms_is_one_class(tmp_path, write):
    for bear, split in ((unicodedata.normalize("NFD", "Bär"), "train"), ("Bär", "test")):
        for name in (bear, "Kuh"):
            write(tmp_path / split / name / "1.png")
    data, _ = load(tmp_path)
    assert data.class_names == ("Bär", "Kuh")
    assert len(data.test) == 2


def test_too_few_classes_are_refused_with_the_folder_to_give(tmp_path, write):
    write(tmp_path / "pets" / "cat" / "1.png")
    with pytest.raises(DataError, match="'cat' only"):
        load(tmp_path / "pets")
    write(tmp_path / "pets" / "dog" / "1.png")
    with pytest.raises(DataError, match=re.escape(f"cat, dog are the classes, give {tmp_path}")):
        load(tmp_path)
    write(tmp_path / "flat" / "1.png")
    with pytest.raises(DataError, match="no class folders with pictures"):
        load(tmp_path / "flat")
    (tmp_path / "nothing" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no data set can be read"):
        load(tmp_path / "nothing")


def test_splits_that_can_not_be_used_are_explained(tmp_path, write):
    write(tmp_path / "a" / "test" / "cat" / "1.png")
    write(tmp_path / "a" / "test" / "dog" / "1.png")
    with pytest.raises(DataError, match="'test' but no folder 'train'"):
        load(tmp_path / "a")
    write(tmp_path / "b" / "train" / "cat1.png")
    write(tmp_path / "b" / "test" / "cat2.png")
    with pytest.raises(DataError, match="lie directly in test, train"):
        load(tmp_path / "b")


def test_a_class_that_is_only_in_test_and_pictures_without_class(pets, write):
    write(pets / "test" / "fox" / "1.png")
    write(pets / "test" / "Cat" / "9.png")
    write(pets / "train" / "stray.png")
    with pytest.raises(DataError) as caught:
        load(pets)
    text = str(caught.value)
    assert text.startswith("3 of 17 pictures can't be used:")
    assert "train/stray.png: it lies in no class folder" in text
    assert "test/fox/1.png: there are no training pictures of 'fox'" in text
    assert "there are no training pictures of 'Cat', only of 'cat'" in text
    data, said = load(pets, options=SKIP)
    assert (data.skipped, len(data.train), len(data.test)) == (3, 10, 4)
    assert data.class_names == ("cat", "dog")
    assert said.startswith("left out 3 of 17 pictures")


def test_links_are_followed_once(pets, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "cat").symlink_to(pets / "train" / "cat")
    (linked / "dog").symlink_to(pets / "train" / "dog")
    (pets / "train" / "dog" / "up").symlink_to(linked)
    assert len(list_folder(linked).pictures) == 10

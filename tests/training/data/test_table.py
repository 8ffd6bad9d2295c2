from __future__ import annotations

import gc
import io
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.training.data.loading import load
from training.data.dataset import DataError, LoadOptions, StreamedSplit


def png(look: int, px: int = 9) -> bytes:
    pixels = np.random.default_rng(look).integers(0, 256, (px, px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    folder: Path, columns: dict[str, Any], kinds: dict[str, Any], split: str = "train"
) -> None:
    """A Parquet file of pictures ``img`` and the columns given."""
    count = len(next(iter(columns.values())))
    look = {"train": 0, "test": 1000, "validation": 2000}[split]
    pictures = [{"bytes": png(look + index), "path": None} for index in range(count)]
    table = datasets.Dataset.from_dict(
        {"img": pictures, **columns}, datasets.Features({"img": datasets.Image(), **kinds})
    )
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def named(*names: str) -> datasets.ClassLabel:
    return datasets.ClassLabel(names=list(names))


INT, STRING = datasets.Value("int64"), datasets.Value("string")


def test_class_labels_and_grey_pictures(tmp_path):
    kinds = {"kind": named("x", "y")}
    write_parquet(tmp_path, {"kind": [0, 1] * 3}, kinds)
    write_parquet(tmp_path, {"kind": [0, 1]}, kinds, "test")
    data, said = load(tmp_path, None)
    assert data.class_names == ("x", "y")
    assert data.test_name == "test"
    assert data.train.labels.tolist() == [0, 1] * 3
    assert data.train.image_px == 9
    assert said == ""
    streamed, _ = load(tmp_path, None, LoadOptions(memory_bytes=0))
    assert isinstance(streamed.train, StreamedSplit)
    assert streamed.digest == data.digest
    order = [4, 0, 1]
    assert torch.equal(streamed.train.decode(order), data.train.in_memory().pixels[order])


def test_of_two_class_labels_the_first_or_the_one_asked_for(tmp_path):
    kinds = {"fine_label": named("a", "b", "c"), "coarse_label": named("x", "y")}
    columns = {"fine_label": [0, 1, 2, 0, 1, 2], "coarse_label": [0, 1, 1, 0, 1, 1]}
    write_parquet(tmp_path, columns, kinds)
    data, said = load(tmp_path)
    assert data.class_names == ("a", "b", "c")
    assert (
        said == "labels are taken from column 'fine_label'; --label-column takes coarse_label"
        " instead"
    )
    data, said = load(tmp_path, options=LoadOptions(label_column="coarse_label"))
    assert (data.class_names, said) == (("x", "y"), "")
    data, said = load(tmp_path, options=LoadOptions(image_column="img"))
    assert len(data.class_names) == 3
    with pytest.raises(DataError, match=r"--label-column img: .* fine_label, coarse_label"):
        load(tmp_path, options=LoadOptions(label_column="img"))
    with pytest.raises(DataError, match="--image-column fine_label"):
        load(tmp_path, options=LoadOptions(image_column="fine_label"))


def test_texts_become_sorted_class_names(tmp_path):
    kinds = {"id": STRING, "category": STRING}
    train = {"id": list("abcdef"), "category": ["dog", "cat", "ä", "dog", "cat", "ä"]}
    write_parquet(tmp_path, train, kinds)
    write_parquet(tmp_path, {"id": list("ab"), "category": ["cat", "dog"]}, kinds, "test")
    data, _ = load(tmp_path)
    assert data.class_names == ("cat", "dog", "ä")
    assert data.train.labels.tolist() == [1, 0, 2, 1, 0, 2]
    assert data.test.labels.tolist() == [0, 1]


def test_whole_numbers_become_class_names_in_order(tmp_path):
    write_parquet(tmp_path, {"label": [10, 9, 2, 10, 9, 2]}, {"label": INT})
    write_parquet(tmp_path, {"label": [2, 10]}, {"label": INT}, "validation")
    data, _ = load(tmp_path)
    assert data.class_names == ("2", "9", "10")
    assert data.test_name == "validation"
    assert data.test.labels.tolist() == [0, 2]


def test_plain_columns_that_could_all_be_labels_are_asked_about(tmp_path):
    write_parquet(
        tmp_path, {"name": list("ababab"), "size": [1, 2] * 3}, {"name": STRING, "size": INT}
    )
    with pytest.raises(DataError, match="name, size could hold the labels"):
        load(tmp_path)
    data, _ = load(tmp_path, options=LoadOptions(label_column="size"))
    assert data.class_names == ("1", "2")


def test_a_column_of_numbers_of_rows_is_no_label(tmp_path):
    write_parquet(tmp_path, {"row": list(range(120))}, {"row": INT})
    with pytest.raises(DataError, match="120 different values in 120 rows"):
        load(tmp_path)


@pytest.mark.parametrize("memory_bytes", [None, 0])
def test_rows_without_label_or_picture_or_out_of_range(tmp_path, memory_bytes):
    folder = tmp_path / "bad"
    labels = [0, 1, -1, 7, None, 0, 1, 0, 1, 0, 1]
    pictures: list[dict[str, Any]] = [
        {"bytes": png(50 + index), "path": None} for index in range(len(labels))
    ]
    pictures[5] = {"bytes": None, "path": str(tmp_path / "nowhere.jpg")}
    pictures[6] = {"bytes": b"x", "path": "odd.png"}
    # As other tools write it: numbers beyond the names that the file itself gives them.
    features = datasets.Features({"img": datasets.Image(), "label": named("x", "y")})
    schema = features.arrow_schema
    folder.mkdir()
    pq.write_table(
        pa.Table.from_pydict({"img": pictures, "label": labels}, schema=schema),
        folder / "train-00000-of-00001.parquet",
    )
    write_parquet(folder, {"label": [0, 1]}, {"label": named("x", "y")}, "test")
    with pytest.raises(DataError) as caught:
        load(folder, options=LoadOptions(memory_bytes=memory_bytes))
    text = str(caught.value)
    assert text.startswith("5 of 13 pictures")
    assert "train row 2: it has no label" in text
    assert "train row 3: its label 7 is out of range 0 to 1" in text
    assert "train row 4: it has no label" in text
    assert "nowhere.jpg): No such file" in text
    assert "train row 6 (odd.png): The 1 bytes are not an image" in text
    options = LoadOptions(bad_files="skip", memory_bytes=memory_bytes)
    data, _ = load(folder, options=options)
    assert (data.skipped, len(data.train), len(data.test)) == (5, 6, 2)


def test_texts_that_training_has_not(tmp_path):
    write_parquet(tmp_path, {"label": ["a", "b", "", None]}, {"label": STRING})
    write_parquet(tmp_path, {"label": ["a", "fox"]}, {"label": STRING}, "test")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert "3 of 6 pictures" in str(caught.value)
    assert "test row 1: there are no training pictures of 'fox'" in str(caught.value)


def test_published_pictures_with_two_labels_are_kept_and_said(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"bytes": png(min(i, 4)), "path": None} for i in range(6)]
    features = datasets.Features({"img": datasets.Image(), "label": named("x", "y")})
    table = datasets.Dataset.from_dict({"img": rows, "label": [0, 1] * 3}, features)
    table.to_parquet(folder / "train-00000-of-00001.parquet")
    write_parquet(folder, {"label": [0, 1]}, {"label": named("x", "y")}, "test")
    data, said = load(folder)
    assert (len(data.train), data.skipped) == (6, 0)
    assert said.startswith("2 pictures have two labels, and stay as published:")
    assert "train row 4: labelled 'x', but the same picture is labelled 'y' as train row 5" in said
    assert load(folder, options=LoadOptions(memory_bytes=0))[0].digest == data.digest


def test_a_test_split_without_labels_is_none(tmp_path):
    kinds = {"label": named("x", "y", "z")}
    write_parquet(tmp_path, {"label": [0, 1] * 3}, kinds)
    write_parquet(tmp_path, {"label": [-1, -1]}, kinds, "test")
    data, said = load(tmp_path)
    assert data.test_name == "held out"
    assert "split 'test' has no labels" in said
    assert "classes without training pictures: z" in said
    write_parquet(tmp_path, {"label": [1, 0]}, kinds, "validation")
    data, _ = load(tmp_path)
    assert (data.test_name, len(data.test)) == ("validation", 2)


def test_pictures_labelled_by_a_metadata_file(tmp_path, write):
    for split, count in (("train", 4), ("test", 2)):
        lines = ["file_name,label"]
        for index in range(count):
            write(tmp_path / split / f"{index}.png")
            lines.append(f"{index}.png,{'cat' if index % 2 else 'dog'}")
        (tmp_path / split / "metadata.csv").write_text("\n".join(lines))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # 'datasets' leaves the CSV file open
        data, _ = load(tmp_path)
        assert data.class_names == ("cat", "dog")
        assert data.train.labels.tolist() == [1, 0, 1, 0]
        (tmp_path / "train" / "2.png").unlink()
        with pytest.raises(DataError, match=r"2\.png\): No such file"):
            load(tmp_path)
        gc.collect()


def test_one_class_or_no_picture_column_is_refused(tmp_path):
    write_parquet(tmp_path / "one", {"label": ["a"] * 3}, {"label": STRING})
    with pytest.raises(DataError, match="knows 1 class"):
        load(tmp_path / "one")
    (tmp_path / "none").mkdir()
    table = datasets.Dataset.from_dict({"label": ["a", "b"]})
    table.to_parquet(tmp_path / "none" / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="needs a column of pictures"):
        load(tmp_path / "none")
    table.to_parquet(tmp_path / "none" / "test-00000-of-00001.parquet")
    (tmp_path / "none" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match="has no 'train' split; it has test"):
        load(tmp_path / "none")


def test_bytes_without_the_picture_type_are_pictures(tmp_path):
    table = datasets.Dataset.from_dict({"data": [png(i) for i in range(6)], "label": [0, 1] * 3})
    table.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    data, _ = load(tmp_path)
    assert data.class_names == ("0", "1")
    assert len(data.train) == 5

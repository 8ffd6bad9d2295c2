"""Labelled images from a folder of Parquet files, an image folder, or a hub name, as uint8 tensors.

``datasets.load_dataset`` reads all three; which column holds the image and which the label follows
from their types. Pixels are decoded and resized by ``service.engine.decode``, the code that serves.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from service.engine.decode import decode_image
from service.engine.errors import ImageError
from service.metadata import Resize
from training.data.sizes import MAX_PX, MIN_PX

TEST_SPLITS = ("test", "validation", "valid")
HELD_OUT_NAME = "held out"
HELD_OUT = 0.1  # share of the training images that is the test split where the data has none
_CHUNK = 1024
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class DataError(Exception):
    """The data can't be used; the message names what is wrong and what would be right."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    Attributes:
        pixels: uint8 [N, H, W, 3], RGB.
        labels: int64 [N], indices into the class names.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A data set in memory.

    Attributes:
        name: Where it came from.
        class_names: Labels, in the order of their indices.
        grey: Every image is grey.
        train: Training images.
        test: Test images.
        test_name: Name of the split that ``test`` is.
    """

    name: str
    class_names: tuple[str, ...]
    grey: bool
    train: Split
    test: Split
    test_name: str

    @property
    def digest(self) -> str:
        """SHA-256 over the decoded pixels and labels of both splits, hex, 16 digits."""
        total = hashlib.sha256()
        for split in (self.train, self.test):
            total.update(split.pixels.numpy().data)
            total.update(split.labels.numpy().data)
        return total.hexdigest()[:16]


def load_data(source: str, image_px: int | None, resize: Resize, seed: int) -> ImageData:
    """Read a labelled data set into memory.

    Args:
        source: Folder with Parquet files or with one folder of pictures a class, or a hub name.
        image_px: Height and width of every image; None takes the size of the first one.
        resize: How pictures of another size are brought to it.
        seed: Chooses the held-out images where the data has no test split.

    Raises:
        DataError: No images or labels are found, or an image can't be read.
    """
    splits = _load_splits(source)
    image_column, label_column = _columns(splits["train"])
    test_name = next((name for name in TEST_SPLITS if name in splits), None)
    if test_name is None:
        parts = splits["train"].train_test_split(test_size=HELD_OUT, seed=seed)
        splits, test_name = {"train": parts["train"], "test": parts["test"]}, HELD_OUT_NAME
    train, test = splits["train"], splits["test" if test_name == HELD_OUT_NAME else test_name]
    size_px = image_px or _size_of_first(train, image_column)
    class_names = tuple(train.features[label_column].names)

    def read(rows: Any) -> Split:
        return _decode(rows, image_column, label_column, size_px, resize)

    train_split, test_split = read(train), read(test)
    grey = bool((train_split.pixels == train_split.pixels[..., :1]).all())
    name = Path(source).name if Path(source).is_dir() else source
    return ImageData(name, class_names, grey, train_split, test_split, test_name)


def _load_splits(source: str) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    path = Path(source)
    # Without the network, 'datasets' takes any name for something that it once cached.
    if not path.is_dir() and not _HUB_NAME.fullmatch(source):
        raise DataError(
            f"{source!r} is no folder, and no name on the hub, which has the form owner/name"
        )
    try:
        if path.is_dir():
            splits = datasets.load_dataset(str(path.resolve()))
        else:
            splits = datasets.load_dataset(source)
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"no data set can be read from {source!r}: {first_line}. Give a folder of Parquet"
            " files, a folder with one folder of pictures a class, or the name of an image"
            " classification data set on the Hugging Face hub."
        ) from error
    if "train" not in splits:
        raise DataError(f"{source!r} has no 'train' split; it has {', '.join(splits)}")
    return dict(splits)


def _columns(rows: Any) -> tuple[str, str]:
    import datasets

    images = [n for n, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    labels = [n for n, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise DataError(
            f"the data needs an image column and a class label column; it has {rows.features}"
        )
    # CIFAR-100 on the hub has fine_label before coarse_label: the first one is the finest.
    return images[0], labels[0]


def _encoded(rows: Any, image_column: str) -> Any:
    import datasets

    return rows.cast_column(image_column, datasets.Image(decode=False))


def _bytes(cell: dict[str, Any]) -> bytes:
    data = cell["bytes"]
    try:
        return data if data is not None else Path(cell["path"]).read_bytes()
    except OSError as error:
        raise DataError(f"{cell['path']}: {error.strerror}") from error


def _size_of_first(rows: Any, image_column: str) -> int:
    cell = _encoded(rows, image_column)[0][image_column]
    try:
        with Image.open(io.BytesIO(_bytes(cell))) as image:
            size_px = max(image.size)
    except (OSError, Image.DecompressionBombError, DataError) as error:
        raise DataError(f"image 0 ({cell['path']}): it can't be read") from error
    if not MIN_PX <= size_px <= MAX_PX:
        raise DataError(
            f"the first image is {size_px} px; choose a size from {MIN_PX} to {MAX_PX} with"
            " --image-px"
        )
    return size_px


def _decode(rows: Any, image_column: str, label_column: str, size_px: int, resize: Resize) -> Split:
    pixels = torch.empty((len(rows), size_px, size_px, 3), dtype=torch.uint8)
    into = pixels.numpy()

    def decode(index: int, cell: dict[str, Any]) -> None:
        try:
            into[index] = decode_image(_bytes(cell), size_px, size_px, resize)
        except ImageError as error:
            raise DataError(f"image {index} ({cell['path']}): {error.detail}") from error

    encoded = _encoded(rows, image_column)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(encoded), _CHUNK):
            cells = encoded[start : start + _CHUNK][image_column]
            list(pool.map(decode, range(start, start + len(cells)), cells))
    labels = torch.tensor(rows[label_column][:], dtype=torch.int64)
    if len(labels) and int(labels.min()) < 0:
        raise DataError("some images have no label (-1)")
    return Split(pixels, labels)

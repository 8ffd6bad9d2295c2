"""Tables of pictures, read by ``datasets``: hub names, Parquet files, folders with metadata.csv."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.labelled import (
    HELD_OUT_NAME,
    NO_LABEL,
    TEST_SPLITS,
    Candidates,
    Labelled,
    LoadOptions,
)
from training.data.pictures import PictureTable
from training.data.splits import DataError

LABEL_NAMES = ("label", "labels", "class", "category", "target", "fine_label", "class_name", "y")
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MANY_CLASSES = 100

Say = Callable[[str], None]


def read_table(source: str, *, metadata: bool, options: LoadOptions, say: Say) -> Labelled:
    """Read a data set through ``datasets``.

    Args:
        source: Folder, or name on the hub.
        metadata: The folder holds pictures and a file that labels them.
        options: Names of columns.
        say: Receives which column was taken where there was a choice.

    Raises:
        DataError: Nothing can be read, or there are no pictures or labels in it.
    """
    splits = _load(source, metadata=metadata)
    features = splits["train"].features
    image_column = _image_column(features, options.image_column, say)
    label_column = _label_column(features, options.label_column, say)
    names = _class_names(splits["train"], label_column, options.label_column is not None)
    if len(names) < 2:
        raise DataError(
            f"column {label_column!r} knows {len(names)} class; a classifier needs two or more"
        )

    def candidates(split: str) -> Candidates:
        rows = splits[split]
        labels, faults = _labels(rows, label_column, names)
        order = np.arange(len(rows), dtype=np.int64)
        return Candidates(PictureTable(rows, image_column, split), order, labels, faults)

    for split in (name for name in TEST_SPLITS if name in splits):
        if {image_column, label_column} <= set(splits[split].features):
            test = candidates(split)
            if (test.labels != NO_LABEL).any():
                break
        say(f"split {split!r} has no labels: another one is taken for testing")
    else:
        test, split = None, HELD_OUT_NAME
    return Labelled(names, candidates("train"), test, split, published=not metadata)


def _load(source: str, *, metadata: bool) -> dict[str, Any]:
    path = Path(source)
    # Without the network, 'datasets' takes any name for something that it once cached.
    if not path.is_dir() and not _HUB_NAME.fullmatch(source):
        raise DataError(
            f"{source!r} is no folder, and no name on the hub, which has the form owner/name"
        )
    import datasets  # which takes seconds

    datasets.disable_progress_bars()
    try:
        if metadata:
            splits = datasets.load_dataset("imagefolder", data_dir=str(path.resolve()))
        elif path.is_dir():
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


def _image_column(features: Any, wanted: str | None, say: Say) -> str:
    import datasets

    binary = (datasets.Value("binary"), datasets.Value("large_binary"))
    typed = [n for n, kind in features.items() if isinstance(kind, datasets.Image)]
    # Written without 'datasets', a column of pictures is one of bytes, or of bytes and path.
    plain = [
        n
        for n, kind in features.items()
        if kind in binary or (isinstance(kind, dict) and {"bytes", "path"} <= set(kind))
    ]
    return _chosen("image", typed or plain, typed + plain, wanted, say, features)


def _label_column(features: Any, wanted: str | None, say: Say) -> str:
    import datasets

    typed = [n for n, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    plain = [
        n
        for n, kind in features.items()
        if isinstance(kind, datasets.Value)
        and re.match(r"(large_)?string|u?int|bool", kind.dtype) is not None
    ]
    named = [n for name in LABEL_NAMES for n in plain if n.casefold() == name]
    # CIFAR-100 on the hub has fine_label before coarse_label: the first one is the finest.
    found = typed or named or plain
    if not typed and not named and len(plain) > 1 and wanted is None:
        raise DataError(
            f"any of the columns {', '.join(plain)} could hold the labels; name the one that does"
            " with --label-column"
        )
    return _chosen("label", found, typed + plain, wanted, say, features)


def _chosen(
    what: str, found: list[str], possible: list[str], wanted: str | None, say: Say, features: Any
) -> str:
    if wanted is not None:
        if wanted in possible:
            return wanted
        raise DataError(
            f"--{what}-column {wanted}: the data has no such column of {what}s; it has"
            f" {', '.join(possible) or ', '.join(features)}"
        )
    if not found:
        raise DataError(
            "the data needs a column of pictures and one of labels (classes, texts or whole"
            f" numbers); it has {features}"
        )
    if len(found) > 1:
        others = ", ".join(found[1:])
        say(f"{what}s are taken from column {found[0]!r}; --{what}-column takes {others} instead")
    return found[0]


def _class_names(rows: Any, column: str, asked_for: bool) -> tuple[str, ...]:
    """Names of a class label, or the different values of a plain column, in order."""
    import datasets

    kind = rows.features[column]
    if isinstance(kind, datasets.ClassLabel):
        return tuple(kind.names)
    values = sorted({v for v in rows[column][:] if v is not None and v != "" and not _negative(v)})
    if len(values) > max(_MANY_CLASSES, len(rows) // 2) and not asked_for:
        raise DataError(
            f"column {column!r} has {len(values):,} different values in {len(rows):,} rows, which"
            " are hardly classes; name the column of labels with --label-column"
        )
    return tuple(str(value) for value in values)


def _negative(value: str | int) -> bool:
    return not isinstance(value, str) and value < 0


def _labels(
    rows: Any, column: str, names: tuple[str, ...]
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Indices into the class names, and why a row has none."""
    import datasets

    values = rows[column][:]
    faults: dict[int, str] = {}
    if isinstance(rows.features[column], datasets.ClassLabel):
        labels = np.array([NO_LABEL if v is None else v for v in values], np.int64)
        for row in np.flatnonzero(labels >= len(names)).tolist():
            faults[row] = f"its label {labels[row]} is out of range 0 to {len(names) - 1}"
        labels[labels >= len(names)] = NO_LABEL
        return labels, faults
    indices = {name: index for index, name in enumerate(names)}
    labels = np.array([indices.get(str(v), NO_LABEL) for v in values], np.int64)
    for row in np.flatnonzero(labels == NO_LABEL).tolist():
        if values[row] not in (None, "") and not _negative(values[row]):
            faults[row] = f"there are no training pictures of {values[row]!r}"
    return labels, faults

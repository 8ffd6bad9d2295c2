"""Results in files: every format, whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from service.bulk.progress import Progress
from service.bulk.writers import FormatError, format_of, writing_file
from service.client.errors import image_error
from service.client.results import Prediction, Result


def good(index: int, path: str = 'grün, "a".png') -> Result:
    ranked = Prediction(3, "cat", 0.75), Prediction(5, "hot dog", 0.25)
    return Result(index, path, "cifar10", 2, "id", None, ranked)


def bad(index: int) -> Result:
    error = image_error(index, "bad.png", "image_undecodable", "It is broken.", "Mend it.")
    return Result(index, "bad.png", "cifar10", 2, "id", error, ())


def write(path: Path, results: Iterable[Result], top_k: int = 3) -> None:
    with writing_file(path, format_of(path), top_k) as put:
        for result in results:
            put(result)


ROW = {
    "path": 'grün, "a".png',
    "label": "cat",
    "probability": 0.75,
    "class_id": 3,
    "labels": ["cat", "hot dog"],
    "probabilities": [0.75, 0.25],
    "class_ids": [3, 5],
    "model": "cifar10",
    "version": 2,
    "error": None,
}
BAD_ROW: dict[str, object] = {
    **dict.fromkeys(ROW),
    "path": "bad.png",
    "labels": [],
    "probabilities": [],
    "class_ids": [],
    "model": "cifar10",
    "version": 2,
    "error": "It is broken.",
}


def test_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    write(path, [good(0), bad(1)])
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [ROW, BAD_ROW]


def test_parquet(tmp_path):
    path = tmp_path / "x.PARQUET"
    write(path, [good(0), bad(1)] * 10_001)
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert len(rows) == 20_002
    assert rows[:2] == rows[-2:] == [ROW, BAD_ROW]
    write(path, [])
    assert pyarrow.parquet.read_table(path).column_names == list(ROW)


def test_csv(tmp_path):
    path = tmp_path / "x.csv"
    write(path, [good(0), bad(1)])
    with path.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "path": "grün, \"a\".png", "label": "cat", "probability": "0.75", "class_id": "3",
        "label_2": "hot dog", "probability_2": "0.25", "label_3": "", "probability_3": "",
        "model": "cifar10", "version": "2", "error": "",
    }  # fmt: skip
    assert second["error"] == "It is broken."
    assert second["label"] == ""


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_a_file_is_whole_or_as_it_was(tmp_path, name):
    path = tmp_path / name
    path.write_text("before")

    def failing() -> Iterator[Result]:
        yield good(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, failing())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    write(path, [good(0)])
    assert path.read_bytes() != b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_other_names_ask_for_no_format(tmp_path):
    for name in ("x.txt", "x", "x.json", ".csv"):
        with pytest.raises(FormatError, match=r"\.parquet"):
            format_of(tmp_path / name)


def test_progress_counts_and_tells_the_time_left():
    progress = Progress(shown=False)
    for index in range(10):
        progress.advance(failed=index == 3)
    assert (progress.done, progress.failed) == (10, 1)
    assert "10" in progress.line()
    assert "left" not in progress.line()
    progress._total = 1_000_000
    assert progress.line().startswith("10 of 1,000,000 (0%), ")
    assert progress.line().endswith(" left")
    assert progress.summary().startswith("10 images, 1 failed, in ")

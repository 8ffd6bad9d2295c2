from __future__ import annotations

import os
import zipfile

import datasets

from training.data.pictures import PictureFiles, PictureTable


def test_files_are_read_in_the_order_asked_for(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    files = PictureFiles(tmp_path, ("a", "b", "gone", "c"))
    c, gone, a = files.encoded([3, 2, 0])
    assert (c, a) == (b"c", b"a")
    assert isinstance(gone, OSError)
    assert gone.strerror == "No such file or directory"


def test_names_that_are_no_text_are_fit_to_print(tmp_path):
    odd = os.fsdecode(b"r\xe9sum\xe9.png")
    (tmp_path / odd).write_bytes(b"x")
    files = PictureFiles(tmp_path, (odd,))
    assert files.name(0) == "r?sum?.png"
    assert list(files.encoded([0])) == [b"x"]


def test_a_table_gives_bytes_files_and_what_lies_in_archives(tmp_path):
    (tmp_path / "b.png").write_bytes(b"file")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/c.png", b"archived")
    cells = [
        {"bytes": b"inside", "path": None},
        {"bytes": None, "path": str(tmp_path / "b.png")},
        {"bytes": None, "path": f"zip://in/c.png::{tmp_path / 'all.zip'}"},
        None,
    ]
    kinds = datasets.Features({"x": datasets.Image(decode=False)})
    table = PictureTable(datasets.Dataset.from_dict({"x": cells}, kinds), "x", "train")
    assert len(table) == 4
    *found, missing = table.encoded(range(4))
    assert found == [b"inside", b"file", b"archived"]
    assert list(table.encoded([2, 0])) == [b"archived", b"inside"]
    assert isinstance(missing, OSError)
    assert table.name(0) == "train row 0"
    assert table.name(1) == f"train row 1 ({tmp_path / 'b.png'})"

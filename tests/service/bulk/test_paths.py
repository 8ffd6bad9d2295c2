"""Which files a command line means."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from service.bulk.paths import find_images, printable, read_list


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b.png", "a.JPG", "notes.txt", ".hidden.png", "c/z.webp", "c/y.gif", "c/d/x.bmp",
        "aa/w.ppm", ".git/x.png",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(tree: Path, *paths: Path | str, recursive: bool = False) -> list[str]:
    found = find_images([str(path) for path in paths], recursive=recursive)
    return [os.path.relpath(path, tree) if path != "-" else path for path in found]


def test_a_folder_is_its_pictures_in_order(tree):
    assert names(tree, tree) == ["a.JPG", "b.png"]


def test_folders_in_folders_are_taken_where_asked(tree):
    expected = ["a.JPG", "aa/w.ppm", "b.png", "c/d/x.bmp", "c/y.gif", "c/z.webp"]
    assert names(tree, tree, recursive=True) == [os.path.normpath(name) for name in expected]


def test_what_is_named_is_taken_whatever_it_is_called(tree):
    named = [tree / "notes.txt", tree / "none.png", "-", tree / "c"]
    expected = ["notes.txt", "none.png", "-", "c/y.gif", "c/z.webp"]
    assert names(tree, *named) == [os.path.normpath(name) for name in expected]


def test_links_to_folders_are_not_followed(tree):
    (tree / "c" / "loop").symlink_to(tree, target_is_directory=True)
    (tree / "link.png").symlink_to(tree / "b.png")
    (tree / "broken.png").symlink_to(tree / "nothing")
    found = names(tree, tree, recursive=True)
    assert "link.png" in found
    assert "broken.png" not in found
    assert len(found) == 7


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_can_not_be_read_is_named(tree):
    (tree / "c").chmod(0)
    try:
        assert "c" in names(tree, tree, recursive=True)
    finally:
        (tree / "c").chmod(0o755)


def test_lists_of_names():
    lines = b"a.png\nb c.png\r\n\nd.png"
    assert list(read_list(io.BytesIO(lines), null=False)) == ["a.png", "b c.png", "d.png"]
    assert list(read_list(io.BytesIO(b"a\nb.png\0\0c.png\0"), null=True)) == ["a\nb.png", "c.png"]
    assert list(read_list(io.BytesIO(b""), null=False)) == []
    many = [f"{index}.png" for index in range(50_000)]
    assert list(read_list(io.BytesIO("\n".join(many).encode()), null=False)) == many


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_names_of_any_bytes_can_be_printed():
    assert printable("grün/a b.png") == "grün/a b.png"
    assert printable(os.fsdecode(b"a\xff.png")) == "a\\xff.png"
    assert printable("a\x1b[31m\n.png") == "a\\x1b[31m\\n.png"

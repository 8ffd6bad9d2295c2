"""Which files are meant: names, folders, and lists of names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

STDIN = "-"
# What the service reads; other files of a folder are passed over.
_NAMES = "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff avif pbm pgm ppm pnm"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
_BLOCK_BYTES = 2**16


def find_images(paths: Iterable[str], *, recursive: bool) -> Iterator[str]:
    """Replace folders by the pictures in them, in the order of their names.

    Links to folders are not followed and names that begin with a dot are passed over, inside of
    folders. A folder that can't be read is given itself, for whoever tries to read it to hear why.

    Args:
        paths: Files, folders, or "-".
        recursive: Take folders in folders too.
    """
    for path in paths:
        if path != STDIN and os.path.isdir(path):  # noqa: PTH112, names stay as they were given
            yield from _walk(path, recursive)
        else:
            yield path


def read_list(stream: BinaryIO, *, null: bool) -> Iterator[str]:
    """Names of files, as they come: one a line, or divided by NUL; empty ones don't count."""
    separator = b"\0" if null else b"\n"
    unread = b""
    read = getattr(stream, "read1", stream.read)
    while block := read(_BLOCK_BYTES):
        *names, unread = (unread + block).split(separator)
        for name in names:
            yield from _name(name, null)
    yield from _name(unread, null)


def printable(path: str) -> str:
    """A path for people and for files of text, whatever bytes the file system let it have."""
    if path.isascii() and path.isprintable():
        return path
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _name(name: bytes, null: bool) -> Iterator[str]:
    if not null:
        name = name.removesuffix(b"\r")
    if name:
        yield os.fsdecode(name)


def _walk(folder: str, recursive: bool) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # No more than names are held: a folder may have a million.
            found = sorted(
                (entry.name, is_folder)
                for entry in entries
                if not entry.name.startswith(".")
                and ((is_folder := entry.is_dir(follow_symlinks=False)) or _is_picture(entry))
            )
    except OSError:
        yield folder
        return
    for name, is_folder in found:
        path = os.path.join(folder, name)  # noqa: PTH118, "./" stays away or there, as given
        if not is_folder:
            yield path
        elif recursive:
            yield from _walk(path, recursive)


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file()  # noqa: PTH122

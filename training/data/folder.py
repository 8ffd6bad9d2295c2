"""Folders with one folder of pictures a class, as people keep them.

``datasets`` reads such folders too, but guesses: one stray picture beside the class folders makes
it drop all labels without a word, a file called ``my-test.jpg`` becomes a test split of its own,
and pictures in sub-folders of a class lose it. Here the first folder below the split names the
class, only whole folders are splits, and what is left alone is said.
"""

from __future__ import annotations

import collections
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.labelled import HELD_OUT_NAME, NO_LABEL, TEST_SPLITS, Candidates, Labelled
from training.data.pictures import PictureFiles, printable
from training.data.splits import DataError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
_READ = "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff avif pbm pgm ppm pnm"
# Photos that can't be read are named as bad: whoever sorted them into classes wants them in.
_UNREAD = "heic heif jxl jp2 svg psd raw dng cr2 cr3 nef arw orf rw2 raf"
_SUFFIXES = frozenset(f".{name}" for name in f"{_READ} {_UNREAD}".split())
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
_SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin"})

Names = tuple[str, ...]  # names from the root down


@dataclass(frozen=True)
class Listing:
    """What lies under a folder, without the files of operating systems; sorted.

    Attributes:
        folders: Folders below the root.
        pictures: Files whose names end like those of pictures.
        others: All other files.
    """

    folders: tuple[Names, ...]
    pictures: tuple[Names, ...]
    others: tuple[Names, ...]


def list_folder(root: Path) -> Listing:
    """Walk a folder, links included."""
    folders: list[Names] = []
    pictures: list[Names] = []
    others: list[Names] = []
    seen = set()
    for place, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        below[:] = [n for n in below if n[0] != "." and n.casefold() not in _SYSTEM_FOLDERS]
        if real in seen:  # a link back up
            below.clear()
            continue
        seen.add(real)
        at = Path(place).relative_to(root).parts
        folders += [(*at, name) for name in below]
        for name in files:
            if name[0] == "." or name.casefold() in _SYSTEM_FILES:
                continue
            is_picture = Path(name).suffix.casefold() in _SUFFIXES
            (pictures if is_picture else others).append((*at, name))
    return Listing(tuple(sorted(folders)), tuple(sorted(pictures)), tuple(sorted(others)))


def read_folder(root: Path, listing: Listing, say: Callable[[str], None]) -> Labelled:
    """Find splits, classes and pictures by the names of folders.

    Args:
        root: Folder with class folders, or with ``train`` and perhaps ``test`` or ``validation``
            folders that hold them.
        listing: What lies in it.
        say: Receives what a person may want to know.

    Raises:
        DataError: There are fewer than two classes, or no training pictures.
    """
    splits = _splits(root, listing)
    train_at = splits.get("train", [()])
    classes = _class_names(train_at, listing.pictures)
    if len(classes) < 2:
        raise DataError(_too_few(root, classes, train_at, listing))
    test_name = next((name for name in TEST_SPLITS if name in splits), HELD_OUT_NAME)
    _say_left_alone(listing, splits, test_name, classes, say)
    test = None
    if test_name in splits:
        test = _candidates(root, splits[test_name], classes, listing)
    train = _candidates(root, train_at, classes, listing)
    return Labelled(classes, train, test, test_name, published=False)


def _splits(root: Path, listing: Listing) -> dict[str, list[Names]]:
    """Folders of each split by its plain name; empty where the class folders come first."""
    kinds = {alias: kind for kind, aliases in SPLIT_NAMES.items() for alias in aliases}
    top = {path[0] for path in listing.folders}
    nested = {path[0] for path in listing.folders if len(path) > 1}
    splits: dict[str, list[Names]] = {}
    for name in sorted(top):
        # A folder 'train' without folders inside is a class: there are pictures of trains.
        if name.casefold() in kinds and name in nested:
            splits.setdefault(kinds[name.casefold()], []).append((name,))
    if splits and "train" not in splits:
        found = ", ".join(repr(at[0]) for places in splits.values() for at in places)
        raise DataError(f"{root} has {found} but no folder 'train' with class folders inside")
    if not splits and top and all(name.casefold() in kinds for name in top):
        raise DataError(
            f"in {root} the pictures lie directly in {', '.join(sorted(top))}: sort them into one"
            " folder a class, such as train/cat and train/dog"
        )
    return splits


def _class_name(folder: str) -> str:
    # macOS stores umlauts as two characters: the same class must not get two names.
    return unicodedata.normalize("NFC", printable(folder))


def _class_names(places: Iterable[Names], pictures: Sequence[Names]) -> tuple[str, ...]:
    names = set()
    for at in places:
        depth = len(at)
        names |= {_class_name(p[depth]) for p in pictures if p[:depth] == at and len(p) > depth + 1}
    return tuple(sorted(names))


def _candidates(
    root: Path, places: Iterable[Names], classes: tuple[str, ...], listing: Listing
) -> Candidates:
    """Pictures of one split, class by class."""
    found: list[tuple[str, Names]] = []
    for at in places:
        depth = len(at)
        for path in listing.pictures:
            if path[:depth] == at and len(path) > depth:
                label = _class_name(path[depth]) if len(path) > depth + 1 else ""
                found.append((label, path))
    found.sort()
    indices = {name: index for index, name in enumerate(classes)}
    labels = np.array([indices.get(name, NO_LABEL) for name, _ in found], np.int64)
    faults = {
        row: f"there are no training pictures of {name!r}{_alike(name, classes)}"
        if name
        else "it lies in no class folder"
        for row, (name, _) in enumerate(found)
        if name not in indices
    }
    paths = tuple(str(Path(*path)) for _, path in found)
    rows = np.arange(len(paths), dtype=np.int64)
    return Candidates(PictureFiles(root, paths), rows, labels, faults)


def _alike(name: str, classes: tuple[str, ...]) -> str:
    alike = [other for other in classes if other.casefold() == name.casefold()]
    return f", only of {alike[0]!r}" if alike else ""


def _too_few(root: Path, classes: tuple[str, ...], places: list[Names], listing: Listing) -> str:
    rule = "a classifier needs a folder of pictures for each of two classes or more"
    if not classes:
        return f"{root} has no class folders with pictures: {rule}"
    at = (*places[0], classes[0])
    inner = sorted({p[len(at)] for p in listing.folders if p[: len(at)] == at and p != at})
    hint = f"; if {', '.join(inner[:3])} are the classes, give {root.joinpath(*at)}"
    return f"{root} has pictures of {classes[0]!r} only: {rule}" + (hint if inner else "")


def _say_left_alone(
    listing: Listing,
    splits: dict[str, list[Names]],
    test_name: str,
    classes: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    """Say which files and folders have no part in the run."""
    if listing.others:
        kinds = collections.Counter(Path(p[-1]).suffix.casefold() or p[-1] for p in listing.others)
        counts = ", ".join(f"{count} {printable(kind)}" for kind, count in kinds.most_common(5))
        say(f"left alone, being no pictures: {counts}")
    used = [at for name in ("train", test_name) for at in splits.get(name, [])] or [()]
    unused = sorted({p[0] for p in listing.pictures if splits and (p[0],) not in used})
    if unused:
        say(f"left alone, neither training nor test pictures: {printable(', '.join(unused))}")
    depths = {(at, len(at)) for at in used}
    empty = [
        printable("/".join(path))
        for path in listing.folders
        if any(path[:d] == at and len(path) == d + 1 for at, d in depths)
        and _class_name(path[-1]) not in classes
        and not any(p[: len(path)] == path for p in listing.pictures)
    ]
    if empty:
        say(f"class folders without pictures: {', '.join(empty)}")

"""Labelled pictures from a hub name, Parquet files or an image folder: checked, named, counted.

``load_data`` finds the pictures, decodes every one once, and hands over both splits: in memory
where they fit, else to be decoded batch by batch. Pixels come from ``service.engine.decode``, the
code that serves.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from service.metadata import Resize
from training.data.check import Checked, Decoder, check_split
from training.data.duplicates import count_leaks, find_conflicts
from training.data.folder import list_folder, read_folder
from training.data.labelled import (
    HELD_OUT,
    HELD_OUT_NAME,
    TEST_SPLITS,
    BadFiles,
    Candidates,
    Labelled,
    LoadOptions,
    listed,
)
from training.data.memory import default_limit_bytes
from training.data.sizes import MAX_PX, MIN_PX
from training.data.splits import (
    AnySplit,
    DataError,
    ImageData,
    Split,
    StreamedSplit,
    short_digest,
)
from training.data.table import METADATA_FILES, read_table

__all__ = [
    "HELD_OUT",
    "HELD_OUT_NAME",
    "TEST_SPLITS",
    "AnySplit",
    "BadFiles",
    "DataError",
    "ImageData",
    "LoadOptions",
    "Split",
    "StreamedSplit",
    "load_data",
]

PHOTO_PX = 224  # the size that photos are commonly trained at
_LOOKED_AT = 64  # pictures whose size is looked at before one is chosen

Say = Callable[[str], None]


def load_data(
    source: str,
    image_px: int | None,
    resize: Resize,
    seed: int,
    options: LoadOptions | None = None,
    say: Say = lambda line: None,
) -> ImageData:
    """Read a labelled data set, and decode every picture of it once.

    Args:
        source: Folder with Parquet files or with one folder of pictures a class, or a hub name.
        image_px: Height and width of every image; None takes the size of the first one.
        resize: How pictures of another size are brought to it.
        seed: Chooses the held-out images where the data has no test split.
        options: Bad files, memory, workers, columns.
        say: Receives lines that a person should read: what was chosen, left out or found odd.

    Raises:
        DataError: No images or labels are found, or some are bad and are not to be skipped.
    """
    options = options or LoadOptions()
    labelled = _open(source, options, say)
    size_px = image_px or _choose_size(labelled.train, say)
    decoder = Decoder(size_px, resize, options.workers or _cpus())
    splits = labelled.with_test(seed)
    images = sum(map(len, splits))
    digest = hashlib.sha256() if _is_large(images, size_px, options, say) else None
    done = _progress(images, say) if digest else lambda count: None
    checked = [check_split(split, decoder, digest, done) for split in splits]
    left_out = _leave_out_conflicts(labelled, splits, checked, say)
    skipped = _settle(splits, checked, options.bad_files, say)
    _say_leaks(checked, say)
    train, test = (
        _split(part, found, decoder, streamed=digest is not None)
        for part, found in zip(splits, checked, strict=True)
    )
    _check_classes(labelled.class_names, train, test, say)
    return ImageData(
        name=Path(source).resolve().name if Path(source).is_dir() else source,
        class_names=labelled.class_names,
        grey=checked[0].grey,
        train=train,
        test=test,
        test_name=labelled.test_name,
        skipped=skipped,
        # The digest of the pass holds pictures that were found to be in conflict after it.
        checked_digest=None if digest is None or left_out else short_digest(digest),
    )


def _open(source: str, options: LoadOptions, say: Say) -> Labelled:
    """Find out what kind of data there is, and read names and labels but no pixels."""
    root = Path(source)
    if not root.is_dir():
        return read_table(source, metadata=False, options=options, say=say)
    listing = list_folder(root)
    others = {path[-1] for path in listing.others}
    if others & set(METADATA_FILES):
        return read_table(source, metadata=True, options=options, say=say)
    if any(name.endswith(".parquet") for name in others) or not listing.pictures:
        return read_table(source, metadata=False, options=options, say=say)
    return read_folder(root, listing, say)


def _choose_size(train: Candidates, say: Say) -> int:
    """Longer side of the first picture in the source, where networks of that size are trained."""
    count = len(train)
    rows = sorted(set(np.linspace(0, count - 1, _LOOKED_AT).astype(int))) if count else []
    sizes = [size for row in rows if (size := _size(train, int(row))) is not None]
    sizes = sizes or [s for row in range(count) if (s := _size(train, row)) is not None][:1]
    if not sizes:
        raise DataError(f"none of the {count:,} training pictures can be read")
    first_px = max(sizes[0])
    chosen = PHOTO_PX if first_px > MAX_PX else max(first_px, MIN_PX)
    if chosen != first_px:
        say(
            f"the first picture is {sizes[0][0]} x {sizes[0][1]}: pictures are brought to"
            f" {chosen} px; --image-px chooses another size from {MIN_PX} to {MAX_PX}"
        )
    elif len(set(sizes)) > 1:
        small, large = min(sizes, key=max), max(sizes, key=max)
        say(
            f"the pictures differ in size, from {small[0]} x {small[1]} to {large[0]} x"
            f" {large[1]}: all are brought to {chosen} px, the size of the first; --image-px"
            " chooses another"
        )
    return chosen


def _size(train: Candidates, row: int) -> tuple[int, int] | None:
    """Width and height by the header, if that can be read."""
    data = next(iter(train.pictures.encoded([row])))
    try:
        if isinstance(data, OSError):
            return None
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # Pillow raises nearly anything on damaged files, which the check will name
        return None


def _is_large(images: int, size_px: int, options: LoadOptions, say: Say) -> bool:
    limit = default_limit_bytes() if options.memory_bytes is None else options.memory_bytes
    size_bytes = images * size_px * size_px * 3
    if size_bytes <= limit:
        return False
    say(
        f"{images:,} pictures of {size_px} px take {size_bytes / 1e9:.1f} GB, more than the"
        f" {limit / 1e9:.1f} GB that they may (--memory-gb): all are checked once now, and decoded"
        " batch by batch while training"
    )
    return True


def _progress(images: int, say: Say) -> Callable[[int], None]:
    """Say after every tenth how far the check is."""
    seen = 0

    def done(count: int) -> None:
        nonlocal seen
        tenth = seen * 10 // images
        seen += count
        if seen * 10 // images > tenth:
            say(f"checked {seen:,} of {images:,} pictures")

    return done


def _settle(
    splits: tuple[Candidates, Candidates],
    checked: list[Checked],
    bad_files: BadFiles,
    say: Say,
) -> int:
    """Refuse or count bad pictures; returns how many there are."""
    bad = [
        (split, at, reason)
        for split, found in zip(splits, checked, strict=True)
        for at, reason in sorted(found.faults.items())
    ]
    if not bad:
        return 0
    share = f"{len(bad):,} of {sum(map(len, splits)):,} pictures"
    if bad_files == "refuse":
        raise DataError(
            f"{share} can't be used:{listed(bad)}\nMend or remove them, or leave them out with"
            " --bad-files skip"
        )
    say(f"left out {share}, which can't be used:{listed(bad)}")
    return len(bad)


def _leave_out_conflicts(
    labelled: Labelled, splits: tuple[Candidates, Candidates], checked: list[Checked], say: Say
) -> bool:
    """Note pictures with two labels as bad; published data stays as it is, which is said."""
    conflicts = find_conflicts(splits, checked, labelled.class_names)
    if labelled.published:
        kept = [(splits[s], at, reason) for (s, at), reason in conflicts.items()]
        if kept:
            say(f"{len(kept):,} pictures have two labels, and stay as published:{listed(kept)}")
        return False
    for (s, at), reason in conflicts.items():
        checked[s].faults[at] = reason
        checked[s].sums.clear()  # they hold the picture
    return bool(conflicts)


def _say_leaks(checked: list[Checked], say: Say) -> None:
    train, test = checked
    if leaks := count_leaks(train, test):
        say(
            f"{leaks:,} of {test.good.sum():,} test pictures are among the training pictures too:"
            " accuracy on them says nothing about new ones"
        )


def _split(part: Candidates, found: Checked, decoder: Decoder, *, streamed: bool) -> AnySplit:
    good = found.good
    labels = torch.from_numpy(part.labels[good])
    if not streamed:
        assert found.pixels is not None
        pixels = found.pixels[good] if found.faults else found.pixels
        return Split(torch.from_numpy(pixels), labels)
    return StreamedSplit(
        part.pictures, part.rows[good], labels, decoder.image_px, decoder.resize, found.sums
    )


def _check_classes(names: tuple[str, ...], train: AnySplit, test: AnySplit, say: Say) -> None:
    """Refuse what can't be trained or tested; say which classes can't be learned."""
    counts = np.bincount(train.labels.numpy(), minlength=len(names))
    if (counts > 0).sum() < 2 or not len(test):
        raise DataError(
            f"{len(train):,} training pictures of {(counts > 0).sum()} classes and {len(test):,}"
            " test pictures are left: it takes pictures of two classes, and one to test with"
        )
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        more = f" and {len(absent) - 10:,} more" if len(absent) > 10 else ""
        say(f"classes without training pictures: {', '.join(absent[:10])}{more}")


def _cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

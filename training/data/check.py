"""One pass over every picture of a split: which decode, what they hold, and what they show."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.errors import ImageError
from service.metadata import Resize
from training.data.augment import ChannelSums, chunk_images, sum_channels
from training.data.labelled import NO_LABEL, Candidates
from training.data.splits import DataError, decode_to_square, reason_of

_PIECE = 256  # pictures that a worker takes at once; fewer where pictures are large


@dataclass(frozen=True)
class Decoder:
    """How pictures are decoded.

    Attributes:
        image_px: Height and width of the result.
        resize: How pictures of another size are brought to it.
        workers: Threads.
    """

    image_px: int
    resize: Resize
    workers: int


@dataclass
class Checked:
    """What one pass found.

    Attributes:
        faults: Why a picture can't be used, by its position.
        prints: uint64 [N], equal where decoded pixels are; of pictures without faults.
        grey: All of them are grey.
        pixels: uint8 [N, H, W, 3], undefined where there are faults; None where not kept.
        sums: Channel sums of RGB, and of luma where all are grey; only where not kept.
    """

    faults: dict[int, str]
    prints: NDArray[np.uint64]
    grey: bool
    pixels: NDArray[np.uint8] | None
    sums: dict[bool, ChannelSums]

    @property
    def good(self) -> NDArray[np.bool_]:
        """Pictures without faults, bool [N]."""
        good = np.ones(len(self.prints), np.bool_)
        good[list(self.faults)] = False
        return good


def check_split(
    split: Candidates,
    decoder: Decoder,
    digest: hashlib._Hash | None,
    done: Callable[[int], None],
) -> Checked:
    """Decode every picture of a split once.

    Args:
        split: Pictures to decode.
        decoder: How.
        digest: Receives pixels and labels of pictures without faults, which then are not kept;
            None: they are kept.
        done: Called with the number of pictures gone through since the last call.

    Raises:
        DataError: There is no memory to keep them.
    """
    count, side = len(split), decoder.image_px
    pixels = _room(count, side) if digest is None else None
    faults = {
        int(position): split.faults.get(int(split.rows[position]), "it has no label")
        for position in np.flatnonzero(split.labels == NO_LABEL)
    }
    checked = Checked(faults, np.zeros(count, np.uint64), True, pixels, {})
    block = max(chunk_images(side), decoder.workers)
    with ThreadPoolExecutor(decoder.workers, thread_name_prefix="check") as pool:
        for start in range(0, count, block):
            positions = range(start, min(start + block, count))
            into = _room(len(positions), side) if pixels is None else pixels[start : start + block]
            _decode_block(split, positions, into, checked, decoder, pool)
            if digest is not None:
                _take_in(into[checked.good[start : positions.stop]], checked, digest)
            done(len(positions))
    if digest is not None:
        digest.update(split.labels[checked.good].data)
    elif pixels is not None:
        checked.grey = _is_grey(pixels[checked.good] if checked.faults else pixels)
    return checked


def _decode_block(
    split: Candidates,
    positions: range,
    into: NDArray[np.uint8],
    checked: Checked,
    decoder: Decoder,
    pool: ThreadPoolExecutor,
) -> None:
    """Decode the pictures at ``positions`` and note faults and prints."""

    def decode(piece: range) -> dict[int, str]:
        faults: dict[int, str] = {}
        rows = [int(row) for row in split.rows[piece.start : piece.stop]]
        for position, data in zip(piece, split.pictures.encoded(rows), strict=True):
            here = into[position - positions.start]
            try:
                here[:] = decode_to_square(data, decoder.image_px, decoder.resize)
            except (OSError, ImageError) as error:
                faults[position] = reason_of(error)
            else:
                print_ = hashlib.blake2b(here.data, digest_size=8).digest()
                checked.prints[position] = int.from_bytes(print_, "little")
        return faults

    size = max(1, min(_PIECE, -(-len(positions) // decoder.workers)))
    pieces = [
        range(start, min(start + size, positions.stop))
        for start in range(positions.start, positions.stop, size)
    ]
    for faults in pool.map(decode, pieces):
        checked.faults.update(faults)


def _take_in(pixels: NDArray[np.uint8], checked: Checked, digest: hashlib._Hash) -> None:
    """Add pictures that are not kept to digest and channel sums."""
    digest.update(pixels.data)
    checked.grey = checked.grey and _is_grey(pixels)
    if not checked.grey:
        checked.sums.pop(True, None)
    # Whether the whole set is grey shows at the end only: until then sum both ways.
    for grey in (False, True) if checked.grey else (False,):
        sums = sum_channels([torch.from_numpy(pixels)], grey=grey)
        checked.sums[grey] = checked.sums[grey] + sums if grey in checked.sums else sums


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    tensor = torch.from_numpy(pixels)
    return bool((tensor == tensor[..., :1]).all())


def _room(count: int, side: int) -> NDArray[np.uint8]:
    try:
        return np.empty((count, side, side, 3), np.uint8)
    except MemoryError:
        raise DataError(
            f"{count:,} pictures of {side} px do not fit into memory: lower --image-px or"
            " --memory-gb"
        ) from None

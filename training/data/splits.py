"""Labelled pictures ready to train on: in memory, or decoded from disk as they are needed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.decode import decode_image
from service.engine.errors import ImageError
from service.metadata import Resize
from training.data.augment import ChannelSums, chunk_images, chunked, sum_channels
from training.data.pictures import Encoded, Pictures

# Phones take 50 megapixels and more, which the service need not accept from strangers; above this,
# Pillow itself warns of pictures made to exhaust memory.
MAX_PIXELS = 89_000_000


class DataError(Exception):
    """The data can't be used; the message names what is wrong and what would be right."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one split, in memory.

    Attributes:
        pixels: uint8 [N, H, W, 3], RGB.
        labels: int64 [N], indices into the class names; on the device of the pixels.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_px(self) -> int:
        """Height and width of every image."""
        return self.pixels.shape[1]

    def chunks(self) -> Iterator[Tensor]:
        """All pixels in order, uint8 [n, H, W, 3] at a time."""
        yield from chunked(self.pixels)

    def channel_sums(self, *, grey: bool) -> ChannelSums:
        """Sums that give mean and standard deviation a channel."""
        return sum_channels(self.chunks(), grey=grey)

    def in_memory(self) -> Split:
        """The split itself."""
        return self


@dataclass(frozen=True)
class StreamedSplit:
    """Images and labels of one split whose pixels stay encoded on disk.

    ``load_data`` has decoded every picture once before one of these exists.

    Attributes:
        pictures: Where the encoded pictures are.
        rows: int64 [N], rows of ``pictures`` that belong to the split, in its order.
        labels: int64 [N], indices into the class names, on the CPU.
        image_px: Height and width that every image is brought to.
        resize: How pictures of another size are brought to it.
        sums: Channel sums of RGB and of luma by ``grey``, where the check has left them.
    """

    pictures: Pictures
    rows: NDArray[np.int64]
    labels: Tensor
    image_px: int
    resize: Resize
    sums: dict[bool, ChannelSums] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def decode(self, indices: Sequence[int]) -> Tensor:
        """Decode images, one after the other on the calling thread.

        Args:
            indices: Positions in the split.

        Returns:
            uint8 [n, H, W, 3], on the CPU.

        Raises:
            DataError: A picture can't be read any more.
        """
        side = self.image_px
        pixels = np.empty((len(indices), side, side, 3), np.uint8)
        rows = [int(row) for row in self.rows[list(indices)]]
        for position, (row, data) in enumerate(zip(rows, self.pictures.encoded(rows), strict=True)):
            try:
                pixels[position] = decode_to_square(data, side, self.resize)
            except (OSError, ImageError) as error:
                raise DataError(
                    f"{self.pictures.name(row)} was readable when the data was checked and is not"
                    f" any more: {reason_of(error)}. Put it back, then go on with --resume."
                ) from error
        return torch.from_numpy(pixels)

    def chunks(self) -> Iterator[Tensor]:
        """All pixels in order, uint8 [n, H, W, 3] at a time, decoded on this thread."""
        for indices in torch.split(torch.arange(len(self)), chunk_images(self.image_px)):
            yield self.decode(indices.tolist())

    def channel_sums(self, *, grey: bool) -> ChannelSums:
        """Sums that give mean and standard deviation a channel; free where the check has them."""
        known = self.sums.get(grey)
        return known if known is not None else sum_channels(self.chunks(), grey=grey)

    def in_memory(self) -> Split:
        """The same images, decoded into memory."""
        return Split(torch.cat(list(self.chunks())), self.labels)


AnySplit = Split | StreamedSplit


@dataclass(frozen=True)
class ImageData:
    """A data set: both splits in memory, or both streamed.

    Attributes:
        name: Where it came from.
        class_names: Labels, in the order of their indices.
        grey: Every training image is grey.
        train: Training images.
        test: Test images.
        test_name: Name of the split that ``test`` is.
        skipped: Pictures of both splits that were left out as bad.
        checked_digest: The digest, where checking a streamed set has computed it already.
    """

    name: str
    class_names: tuple[str, ...]
    grey: bool
    train: AnySplit
    test: AnySplit
    test_name: str
    skipped: int = 0
    checked_digest: str | None = None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the decoded pixels and labels of both splits, hex, 16 digits.

        The same whether the set is in memory or streamed.
        """
        if self.checked_digest is not None:
            return self.checked_digest
        total = hashlib.sha256()
        for split in (self.train, self.test):
            for chunk in split.chunks():
                total.update(chunk.cpu().numpy().data)
            total.update(split.labels.cpu().numpy().data)
        return short_digest(total)


def short_digest(total: hashlib._Hash) -> str:
    """The part of a SHA-256 that is recorded with runs and models."""
    return total.hexdigest()[:16]


def decode_to_square(data: Encoded, side_px: int, resize: Resize) -> NDArray[np.uint8]:
    """Decode what was read, as the service would, to uint8 [side_px, side_px, 3].

    Raises:
        OSError: Nothing was read.
        ImageError: The bytes can't be decoded.
    """
    if isinstance(data, OSError):
        raise data
    return decode_image(data, side_px, side_px, resize, MAX_PIXELS)


def reason_of(error: OSError | ImageError) -> str:
    """Why a picture can't be used, in one sentence without a full stop."""
    if isinstance(error, ImageError):
        return error.detail.rstrip(".")
    return error.strerror or type(error).__name__

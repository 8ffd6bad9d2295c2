"""Random views and normalisation of whole batches on the device.

All randomness comes from generators on the CPU and is moved to the device of the pixels, so a run
draws the same on every device, and a resumed run draws what an unbroken one would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Flip = Literal["none", "random", "alternating"]

_CHUNK_IMAGES = 4096
_CHUNK_BYTES = 1 << 24  # as float64, a chunk of large pictures would take gigabytes
_MID_GREY = 128
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's convert("L") weighs


def to_channels(pixels: Tensor, *, grey: bool) -> Tensor:
    """Plain pixels to unnormalised network input.

    Args:
        pixels: uint8 [N, H, W, 3].
        grey: Reduce RGB to luma.

    Returns:
        Float32 in [0, 1], [N, C, H, W] with C = 1 for grey, else 3.
    """
    x = pixels.to(torch.float32).permute(0, 3, 1, 2) / 255.0
    if grey:
        weights = torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1)
        x = (x * weights).sum(dim=1, keepdim=True)
    return x


class Normalize(torch.nn.Module):
    """``(x - mean) / std`` a channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        """Take one mean and one standard deviation a channel, of pixels in [0, 1]."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C, H, W] to the same shape."""
        return (x - self.mean) / self.std


def chunk_images(image_px: int) -> int:
    """Images of this size that are worked on at once."""
    return max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // (image_px * image_px * 3)))


def chunked(pixels: Tensor) -> tuple[Tensor, ...]:
    """Views of uint8 [N, H, W, 3], each of ``chunk_images`` images."""
    return torch.split(pixels, chunk_images(pixels.shape[1]))


@dataclass(frozen=True)
class ChannelSums:
    """What mean and standard deviation a channel follow from.

    Attributes:
        total: Sum of the samples in [0, 1], float64 [C].
        squares: Sum of their squares, float64 [C].
        count: Samples a channel.
    """

    total: Tensor
    squares: Tensor
    count: int

    def __add__(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(
            self.total + other.total, self.squares + other.squares, self.count + other.count
        )


class HasChannelSums(Protocol):
    """A split of images, in memory or not."""

    def channel_sums(self, *, grey: bool) -> ChannelSums:
        """Sums over all its images, of luma for ``grey``."""
        ...


def sum_channels(chunks: Iterable[Tensor], *, grey: bool) -> ChannelSums:
    """Sum over pixels that come as uint8 [n, H, W, 3] at a time."""
    none = torch.zeros((), dtype=torch.float64)
    sums = ChannelSums(none, none, 0)
    for chunk in chunks:
        x = to_channels(chunk, grey=grey).double()
        count = x.shape[0] * x.shape[2] * x.shape[3]
        sums = sums + ChannelSums(x.sum(dim=(0, 2, 3)), x.square().sum(dim=(0, 2, 3)), count)
    return sums


def channel_statistics(
    images: HasChannelSums | Tensor | Iterable[Tensor], *, grey: bool
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel over a training set.

    Args:
        images: A split, or its pixels, uint8 [N, H, W, 3] at once or chunk by chunk.
        grey: Of luma, not of RGB.

    Returns:
        Means and standard deviations of samples in [0, 1], one a channel.
    """
    if isinstance(images, Tensor):
        sums = sum_channels(chunked(images), grey=grey)
    elif isinstance(images, Iterable):
        sums = sum_channels(images, grey=grey)
    else:
        sums = images.channel_sums(grey=grey)
    mean = sums.total / sums.count
    std = (sums.squares / sums.count - mean.square()).clamp_min(1e-6).sqrt()
    return mean.tolist(), std.tolist()


def mirrored(
    indices: Tensor, epoch: int, flip: Flip, seed: int, generator: torch.Generator
) -> Tensor | None:
    """Decide which images of a batch are mirrored left to right.

    Args:
        indices: The batch, positions in the training set, int64 [B].
        epoch: Epochs done before this one.
        flip: ``random``: a coin for every image in every epoch. ``alternating``: a coin for every
            image in the first epoch, and from then on the other way round in every epoch, so that
            two epochs in a row show both views of every image.
        seed: Decides the coins of ``alternating``, which need no state: each is a hash of seed and
            position, so a resumed run goes on as an unbroken one would.
        generator: Source of the coins of ``random``, on the CPU; untouched otherwise.

    Returns:
        Bool [B] on the CPU; None for ``none``.

    Source: ``alternating``: Jordan 2024 (arXiv 2404.00498), alternating flip.
    """
    if flip == "none":
        return None
    if flip == "random":
        return torch.rand(len(indices), generator=generator) < 0.5
    return torch.from_numpy((_coins(indices, seed) + epoch) % 2 == 1)


def _coins(indices: Tensor, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """0 or 1 for each position, by SplitMix64 (Steele et al. 2014) over position and seed."""
    start = np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    x = indices.cpu().numpy().astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + start
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    coins: np.ndarray[tuple[int], np.dtype[np.int64]] = (x >> np.uint64(63)).astype(np.int64)
    return coins


def shift_and_flip(
    pixels: Tensor, shift_px: int, mirrored: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Shift every image of a batch at random, and mirror the chosen ones.

    One gather on uint8 does both: four times less memory traffic than the same on floats, and the
    result is channels-last already.

    Args:
        pixels: uint8 [B, H, W, 3].
        shift_px: Largest shift in either direction, pixels, less than H and W; the picture's edge
            is reflected.
        mirrored: Images to mirror left to right, bool [B]; None for none of them.
        generator: Source of randomness, on the CPU; untouched when ``shift_px`` is 0.

    Returns:
        uint8 [B, H, W, 3]; ``pixels`` itself where nothing is asked for.
    """
    if shift_px == 0 and mirrored is None:
        return pixels
    count, height, width = pixels.shape[:3]
    rows, columns = torch.arange(height).expand(count, -1), torch.arange(width).expand(count, -1)
    if shift_px:
        shifts = torch.randint(-shift_px, shift_px + 1, (2, count, 1), generator=generator)
        rows = _reflected(shifts[0] + rows, height)
        columns = _reflected(shifts[1] + columns, width)
    if mirrored is not None:
        columns = torch.where(mirrored.cpu().unsqueeze(1), width - 1 - columns, columns)
    device = pixels.device
    return pixels[
        torch.arange(count, device=device).view(count, 1, 1),
        rows.to(device, non_blocking=True).unsqueeze(2),
        columns.to(device, non_blocking=True).unsqueeze(1),
    ]


def random_resized_crop(
    pixels: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Cut a random part out of every image and enlarge it to the size of the whole.

    Bilinear without a smoothing filter, which nothing needs: a part is never made smaller.

    Args:
        pixels: uint8 [B, H, W, 3].
        scale: Smallest and largest share of the area, in (0, 1].
        ratio: Smallest and largest width over height, drawn evenly in its logarithm. A part that
            would reach over the edge is cut to the picture's width or height.
        generator: Source of randomness, on the CPU.

    Returns:
        uint8 [B, H, W, 3].

    Source: Szegedy et al. 2014 (arXiv 1409.4842), section 6.
    """
    count, height, width = pixels.shape[:3]
    area, aspect, left, top = torch.rand(4, count, generator=generator)
    area = scale[0] + area * (scale[1] - scale[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    stretch = torch.exp((low + aspect * (high - low)) / 2)
    # Shares of width and height that the part spans, and where its middle may lie in [-1, 1].
    span_x = (area.sqrt() * stretch * math.sqrt(height / width)).clamp(max=1.0)
    span_y = (area.sqrt() / stretch * math.sqrt(width / height)).clamp(max=1.0)
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0], transform[:, 0, 2] = span_x, (2 * left - 1) * (1 - span_x)
    transform[:, 1, 1], transform[:, 1, 2] = span_y, (2 * top - 1) * (1 - span_y)
    transform = transform.to(pixels.device, non_blocking=True)
    grid = F.affine_grid(transform, [count, 3, height, width], False)
    x = pixels.permute(0, 3, 1, 2).to(torch.float32)
    parts = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return parts.round().to(torch.uint8).permute(0, 2, 3, 1)


def cut_out(pixels: Tensor, side_px: int, generator: torch.Generator) -> Tensor:
    """Blank one random square of each image, cut off where it reaches over the edge.

    Args:
        pixels: uint8 [B, H, W, 3].
        side_px: Side of the square, pixels; 0 changes nothing.
        generator: Source of randomness, on the CPU.

    Returns:
        uint8 [B, H, W, 3], mid-grey in the squares.

    Source: DeVries and Taylor 2017 (arXiv 1708.04552).
    """
    if side_px == 0:
        return pixels
    count, height, width = pixels.shape[:3]

    def within(size: int) -> Tensor:
        first = torch.randint(0, size, (count, 1), generator=generator) - side_px // 2
        positions = torch.arange(size)
        return (positions >= first) & (positions < first + side_px)

    rows, columns = within(height), within(width)
    blank = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(3)
    return pixels.masked_fill(blank.to(pixels.device, non_blocking=True), _MID_GREY)


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Fold positions outside [0, size) back in at the edges, int64."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()

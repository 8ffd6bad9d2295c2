"""Random shift, flip and normalisation of whole batches on the device."""

from __future__ import annotations

import torch
from torch import Tensor

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


def channel_statistics(pixels: Tensor, *, grey: bool) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel over a training set, uint8 [N, H, W, 3]."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for chunk in torch.split(pixels, 4096):
        x = to_channels(chunk, grey=grey).double()
        total = total + x.sum(dim=(0, 2, 3))
        squares = squares + x.square().sum(dim=(0, 2, 3))
        count += x.shape[0] * x.shape[2] * x.shape[3]
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-6).sqrt()
    return mean.tolist(), std.tolist()


def random_views(
    pixels: Tensor, index: Tensor, shift_px: int, *, flip: bool, generator: torch.Generator
) -> Tensor:
    """Take images out of a resident set, each shifted and mirrored at random.

    One gather on uint8 does selecting, shifting and mirroring: four times less memory traffic than
    the same on floats, and the result is channels-last already.

    Args:
        pixels: The whole set, uint8 [N, H, W, 3].
        index: Images to take, int64 [B].
        shift_px: Largest shift in either direction, pixels; the picture's edge is reflected.
        flip: Mirror each image left to right with probability one half.
        generator: Source of randomness, on the CPU.

    Returns:
        uint8 [B, H, W, 3].
    """
    count, (height, width) = len(index), pixels.shape[1:3]
    shifts = torch.randint(-shift_px, shift_px + 1, (2, count, 1), generator=generator)
    rows = _reflected(shifts[0] + torch.arange(height), height)
    columns = _reflected(shifts[1] + torch.arange(width), width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    device = pixels.device
    return pixels[
        index.to(device).view(count, 1, 1),
        rows.to(device).unsqueeze(2),
        columns.to(device).unsqueeze(1),
    ]


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
    blank = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(3).to(pixels.device)
    return pixels.masked_fill(blank, _MID_GREY)


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Fold positions outside [0, size) back in at the edges, int64."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()

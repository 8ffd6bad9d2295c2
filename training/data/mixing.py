"""Mixup and cutmix: batches whose images are partly, and whose labels are as partly, another's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mix(
    x: Tensor, mixup_alpha: float, cutmix_alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix every image of a batch with another one, by mixup or by cutmix.

    With both on, a coin decides for the whole batch. The loss to go with it is ``weight * loss(own
    label) + (1 - weight) * loss(label of the partner)``.

    Args:
        x: Network input, float [B, C, H, W].
        mixup_alpha: Both parameters of mixup's beta distribution; 0 turns it off.
        cutmix_alpha: The same of cutmix.
        generator: Source of randomness, on the CPU; untouched when both are off.

    Returns:
        Mixed images, like ``x``; each one's partner, int64 [B]; the share of its own label, float32
        [B] in [0, 1]. All on the device of ``x``.

    Source: mixup: Zhang et al. 2017 (arXiv 1710.09412); cutmix: Yun et al. 2019 (arXiv 1905.04899).
    """
    count = len(x)
    if mixup_alpha == 0 and cutmix_alpha == 0:
        return x, torch.arange(count, device=x.device), torch.ones(count, device=x.device)
    partner = torch.randperm(count, generator=generator).to(x.device, non_blocking=True)
    use_mixup = cutmix_alpha == 0 or (
        mixup_alpha > 0 and bool(torch.rand((), generator=generator) < 0.5)
    )
    alpha = mixup_alpha if use_mixup else cutmix_alpha
    weight = _beta(alpha, count, generator)
    if use_mixup:
        weight = weight.to(x.device, non_blocking=True)
        own = weight.to(x.dtype).view(count, 1, 1, 1)
        return own * x + (1 - own) * x[partner], partner, weight
    boxes = _boxes(weight, x.shape[2], x.shape[3], generator).to(x.device, non_blocking=True)
    # A box that reaches over the edge is smaller than drawn: weigh by what it covers in truth.
    weight = 1 - boxes.float().mean(dim=(1, 2))
    return torch.where(boxes.unsqueeze(1), x[partner], x), partner, weight


def _beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Draws from Beta(alpha, alpha), float32 [count]."""
    # torch's own beta distribution takes no generator; numpy's is seeded from ours.
    seed = int(torch.randint(2**62, (), generator=generator))
    draws = np.random.default_rng(seed).beta(alpha, alpha, count)
    return torch.from_numpy(draws.astype(np.float32))


def _boxes(weight: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes that leave the share ``weight`` uncovered where no edge cuts them, bool [B, H, W]."""
    side = (1 - weight).sqrt()

    def within(size: int) -> Tensor:
        middle = torch.randint(0, size, (len(weight), 1), generator=generator)
        length = (side * size).round().long().unsqueeze(1)
        positions = torch.arange(size)
        first = middle - length // 2
        return (positions >= first) & (positions < first + length)

    rows, columns = within(height), within(width)
    return rows.unsqueeze(2) & columns.unsqueeze(1)

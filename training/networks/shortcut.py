"""The learned weights of a residual join, ``y = act(v * T(x) + w * S(x))``.

``w`` on the shortcut is AdaResNet's (arXiv 2408.09958 eq. 2, the paper's ``weight_tfd^ipd``); ``v``
on the branch is that of ReZero (2003.04887), SkipInit (2002.10444) and LayerScale (2103.17239).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.scale_options import Bound, ScaleOptions


class Scale(nn.Module):
    """Multiply by one scalar, or by one value a channel.

    A learned scale is a parameter, a fixed one (1 is the plain ResNet, 2 the paper's control) a
    buffer, so that both are saved and both are read through ``values``.
    """

    raw: Tensor

    def __init__(self, options: ScaleOptions, channels: int) -> None:
        """Draw or set the first value; ``channels`` counts for granularity ``channel`` only."""
        super().__init__()
        self.bound = options.bound
        shape = (channels, 1, 1) if options.granularity == "channel" else ()
        raw = torch.full(shape, _unbounded(options.first_value, options.bound))
        if options.init == "normal":
            raw = raw + options.std * torch.randn(shape)
        learned = options.granularity != "fixed"
        # The plain network multiplies by nothing, or it would be no fair control for speed.
        self.is_one = not learned and options.init != "normal" and options.first_value == 1.0
        if learned:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    def effective(self) -> Tensor:
        """The scale itself, float32, [] or [C, 1, 1]."""
        if self.bound == "softplus":
            return F.softplus(self.raw)
        if self.bound == "tanh":
            return torch.tanh(self.raw)
        return self.raw

    @torch.no_grad()
    def values(self) -> list[float]:
        """The scale now: one value, or one a channel."""
        found: list[float] = self.effective().double().flatten().tolist()
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Scale a term of the join, float [N, C, H, W]."""
        if self.is_one:
            return x
        # The activation's type decides: under autocast a float32 vector would widen everything.
        return x * self.effective().to(x.dtype)


class ScaleFactory:
    """Make the scales of a network, the same one for every block of a group."""

    def __init__(self, options: ScaleOptions) -> None:
        """Begin a network."""
        self._options = options
        self._shared: dict[str, Scale] = {}

    def make(
        self, where: Literal["shortcut", "branch"], kind: str, stage: int, channels: int
    ) -> Scale | None:
        """The scale of one term of a block, None where nothing is placed.

        Args:
            where: The term.
            kind: Kind of the block's shortcut, the group for ``block_type``.
            stage: Number of the block's stage.
            channels: Of the block's output.
        """
        if self._options.placement not in (where, "both"):
            return None
        granularity = self._options.granularity
        if granularity in ("block", "channel", "fixed"):
            return Scale(self._options, channels)
        group = {"unified": "", "block_type": kind, "stage": str(stage)}[granularity]
        return self._shared.setdefault(f"{where}:{group}", Scale(self._options, channels))


def _unbounded(value: float, bound: Bound) -> float:
    """The parameter at which the bounded scale has this value."""
    if bound == "softplus":
        return value if value > 30 else math.log(math.expm1(value))
    if bound == "tanh":
        return math.atanh(value)
    return value

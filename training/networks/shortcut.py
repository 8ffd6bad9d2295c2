"""The learned weights of a residual join, ``y = act(v * T(x) + w * S(x))``.

``w`` on the shortcut is AdaResNet's (arXiv 2408.09958 eq. 2, the paper's ``weight_tfd^ipd``); ``v``
on the branch is that of ReZero (2003.04887), SkipInit (2002.10444) and LayerScale (2103.17239).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Granularity = Literal["fixed", "unified", "block_type", "stage", "block", "channel"]
Placement = Literal["shortcut", "branch", "both"]
ScaleInit = Literal["zero", "one", "constant", "normal"]
Bound = Literal["none", "softplus", "tanh"]


@dataclass(frozen=True)
class ScaleOptions:
    """Where scales sit, which blocks share one, and where they begin.

    Attributes:
        granularity: Blocks that share one scale: all (``unified``), those with an identity or
            with a projection shortcut (``block_type``), those of a stage, or none (``block``);
            ``channel`` is one scale a channel of each block; ``fixed`` is never learned.
        placement: On the shortcut, on the branch, or one on each.
        init: First value of every scale.
        value: The value for ``constant``, the mean for ``normal``; None is 0 there.
        std: Standard deviation for ``normal``.
        bound: The scale is this function of the parameter: softplus keeps it above 0, tanh within
            (-1, 1). ``init`` speaks of the scale, not of the parameter.
    """

    granularity: Granularity = "block"
    placement: Placement = "shortcut"
    init: ScaleInit = "one"
    value: float | None = None
    std: float = 0.05
    bound: Bound = "none"

    def __post_init__(self) -> None:
        """Refuse first values that can't be.

        Raises:
            ValueError: ``constant`` without a value, or a value outside the bound.
        """
        if self.init == "constant" and self.value is None:
            raise ValueError("--scale-init constant needs --scale-value")
        first = self.first_value
        if not math.isfinite(first):
            raise ValueError("--scale-value must be a finite number")
        if self.bound == "softplus" and first <= 0:
            raise ValueError(
                f"softplus keeps a scale above 0, so it can't begin at {first:g}; take --scale-init"
                " one, or constant with a small --scale-value"
            )
        if self.bound == "tanh" and abs(first) >= 1:
            raise ValueError(
                f"tanh keeps a scale between -1 and 1, so it can't begin at {first:g}; take"
                " --scale-init zero, or constant with a --scale-value inside"
            )

    @property
    def first_value(self) -> float:
        """What every scale begins at, or the mean of it for ``normal``."""
        if self.init == "zero":
            return 0.0
        if self.init == "one":
            return 1.0
        return 0.0 if self.value is None else self.value


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

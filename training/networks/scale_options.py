"""Which joins carry a learned weight, and how it begins. Needs no torch, so flags can use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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

"""Fold batch norm and learned shortcut scales into convolutions. Pure: arrays in, arrays out.

A block computes ``x' = relu(T(x) + w * S(x))``. Because ``relu(a z) = a relu(z)`` for ``a > 0``,
an activation may be stored as ``x / c`` with a positive ``c`` of our choice, as long as whatever
reads it multiplies ``c`` back in. Choosing ``c`` block by block makes every ``w`` vanish into
neighbouring convolutions; docs/architecture.md has the algebra. All arithmetic is float64; the
graph writer rounds once, to float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class FoldError(Exception):
    """The network holds a value that can't be folded."""


@dataclass(frozen=True)
class ScaleRange:
    """Scales at which an activation may be stored."""

    low: float
    high: float

    def __contains__(self, scale: float) -> bool:
        return self.low <= scale <= self.high


# Wide enough for any sensibly trained network, and far from where float32 loses digits.
SAFE_SCALE = ScaleRange(low=2.0**-16, high=2.0**16)


@dataclass(frozen=True)
class Conv:
    """A convolution with bias.

    Attributes:
        weight: float64 [C_out, C_in, k, k].
        bias: float64 [C_out].
        stride: In both directions, pixels.
        padding: Zeros on every side, pixels.
    """

    weight: Array
    bias: Array
    stride: int
    padding: int

    def scaled(self, *, weight: float, bias: float) -> Conv:
        """The same convolution with weight and bias each multiplied by a number."""
        return replace(self, weight=self.weight * weight, bias=self.bias * bias)


@dataclass(frozen=True)
class Linear:
    """A fully connected layer: weight float64 [C_out, C_in], bias float64 [C_out]."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class FusedBlock:
    """A residual block whose batch norms are folded already: ``relu(T(x) + w * S(x))``.

    ``projection`` is None for an identity shortcut.
    """

    name: str
    first: Conv
    last: Conv
    projection: Conv | None
    shortcut_scale: float


@dataclass(frozen=True)
class FusedNetwork:
    """A trained network with batch norm folded and shortcut scales still in place.

    ``normalization`` is the 1 x 1 convolution that turns RGB pixels in [0, 255] into the network's
    normalised channels.
    """

    normalization: Conv
    stem: Conv
    blocks: tuple[FusedBlock, ...]
    classifier: Linear

    def plain_twin(self) -> FusedNetwork:
        """The same network as a plain ResNet: every shortcut scale is 1."""
        return replace(self, blocks=tuple(replace(b, shortcut_scale=1.0) for b in self.blocks))


class Join(Enum):
    """How branch and shortcut meet."""

    ADD = "Add"
    SUB = "Sub"
    NONE = "none"  # w = 0: there is no shortcut


@dataclass(frozen=True)
class FoldedBlock:
    """A block as the graph has it.

    Attributes:
        name: As in the trained network.
        first: First convolution of the branch.
        last: Last convolution of the branch.
        projection: Convolution of the shortcut, or None where it is the identity or absent.
        dropped_projection: There was one, and w = 0 took it away.
        join: Operator between branch and shortcut.
        kept_mul: Factor on an identity shortcut that could not be folded; 1 in all but freak cases.
        output_scale: The block's output is stored divided by this.
    """

    name: str
    first: Conv
    last: Conv
    projection: Conv | None
    join: Join
    kept_mul: float
    output_scale: float
    dropped_projection: bool = False


@dataclass(frozen=True)
class FoldedNetwork:
    """A network without batch norm and without shortcut scales."""

    normalization: Conv
    stem: Conv
    blocks: tuple[FoldedBlock, ...]
    classifier: Linear

    @property
    def kept_muls(self) -> tuple[str, ...]:
        """Names of blocks whose scale left ``SAFE_SCALE`` and stays a Mul."""
        return tuple(block.name for block in self.blocks if block.kept_mul != 1.0)


def fold_batch_norm(conv: Conv, gamma: Array, beta: Array, mean: Array, variance: Array) -> Conv:
    """Fold the batch norm that follows a convolution into it.

    Args:
        conv: The convolution.
        gamma: Affine weight, [C_out].
        beta: Affine bias, [C_out].
        mean: Running mean, [C_out].
        variance: Running variance plus epsilon, [C_out], positive.

    Returns:
        One convolution with the output of both.
    """
    factor = gamma / np.sqrt(variance)
    return replace(
        conv,
        weight=conv.weight * factor[:, None, None, None],
        bias=(conv.bias - mean) * factor + beta,
    )


def fold_network(network: FusedNetwork) -> FoldedNetwork:
    """Fold every learned shortcut scale.

    Returns:
        A network with the same logits in real arithmetic, joined by Add, by Sub where an identity
        shortcut's scale is negative, or by nothing where it is 0.

    Raises:
        FoldError: A weight or a scale is not finite.

    Source: AdaResNet (arXiv 2408.09958) eq. 2 for the block.
    """
    scale = 1.0
    blocks = []
    for block in network.blocks:
        folded = _fold_block(block, scale)
        blocks.append(folded)
        scale = folded.output_scale
    classifier = Linear(network.classifier.weight * scale, network.classifier.bias)
    folded_network = FoldedNetwork(network.normalization, network.stem, tuple(blocks), classifier)
    _check_finite(folded_network)
    return folded_network


def _fold_block(block: FusedBlock, carried: float) -> FoldedBlock:
    """Fold one block whose input is stored as ``x / carried``."""
    w = block.shortcut_scale
    if not math.isfinite(w):
        raise FoldError(f"the shortcut scale of {block.name} is {w}; train again")
    first = block.first.scaled(weight=carried, bias=1.0)
    if w == 0.0:
        dropped = block.projection is not None
        return FoldedBlock(block.name, first, block.last, None, Join.NONE, 1.0, 1.0, dropped)
    if block.projection is not None:
        projection = block.projection.scaled(weight=w * carried, bias=w)
        return FoldedBlock(block.name, first, block.last, projection, Join.ADD, 1.0, 1.0)
    join = Join.ADD if w > 0 else Join.SUB
    scale = abs(w) * carried
    if scale not in SAFE_SCALE:
        # The shortcut keeps its factor, and the output goes back to scale 1.
        return FoldedBlock(block.name, first, block.last, None, join, scale, 1.0)
    last = block.last.scaled(weight=1.0 / scale, bias=1.0 / scale)
    return FoldedBlock(block.name, first, last, None, join, 1.0, scale)


def _check_finite(network: FoldedNetwork) -> None:
    named: list[tuple[str, Conv | Linear | None]] = [
        ("normalization", network.normalization),
        ("stem", network.stem),
        ("classifier", network.classifier),
    ]
    for block in network.blocks:
        named += [(f"{block.name}.first", block.first), (f"{block.name}.last", block.last)]
        named += [(f"{block.name}.projection", block.projection)]
    largest = float(np.finfo(np.float32).max)
    for name, layer in named:
        if layer is None:
            continue
        # A NaN fails both comparisons, so this finds it as well as an infinity.
        if not (np.abs(layer.weight) <= largest).all() or not (np.abs(layer.bias) <= largest).all():
            raise FoldError(f"{name} holds a value that float32 can't; train again")

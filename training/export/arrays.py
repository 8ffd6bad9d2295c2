"""The network as plain float64 arrays: what folding reads and writes, with no PyTorch in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Conv:
    """A convolution with bias.

    Attributes:
        weight: float64 [C_out, C_in / groups, k, k].
        bias: float64 [C_out].
        stride: In both directions, pixels.
        pads: Zeros before (left, above) and after (right, below), pixels.
        groups: Number of groups.
    """

    weight: Array
    bias: Array
    stride: int = 1
    pads: tuple[int, int] = (0, 0)
    groups: int = 1

    @property
    def channels_in(self) -> int:
        """Channels of the input."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def channels_out(self) -> int:
        """Channels of the output."""
        return int(self.weight.shape[0])

    def times(self, factor: Array) -> Conv:
        """The same convolution with its output multiplied by one factor a channel, [C_out]."""
        weight = self.weight * factor[:, None, None, None]
        return replace(self, weight=weight, bias=self.bias * factor)

    def reading(self, scale: Array) -> Conv:
        """The same convolution for an input that is stored divided by ``scale``, [C_in]."""
        groups, each = self.groups, self.weight.shape[1]
        # Row o of the weight reads the channels of its own group.
        columns = np.repeat(scale.reshape(groups, each), self.channels_out // groups, axis=0)
        return replace(self, weight=self.weight * columns[:, :, None, None])


@dataclass(frozen=True)
class Linear:
    """A fully connected layer: weight float64 [C_out, C_in], bias float64 [C_out]."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class Affine:
    """A batch norm that nothing stands before to fold into: one factor and shift a channel."""

    factor: Array
    shift: Array


@dataclass(frozen=True)
class Padding:
    """Shortcut without parameters: every ``stride``-th pixel, zero channels before and behind."""

    stride: int
    before: int
    behind: int


@dataclass(frozen=True)
class Pool:
    """A max pool; ``pads`` before (left, above) and after (right, below), pixels."""

    kernel_px: int
    stride: int
    pads: tuple[int, int]


@dataclass(frozen=True)
class ConvStep:
    """Convolution, max pool where there is one, ReLU where there is one."""

    name: str
    conv: Conv
    pool: Pool | None = None
    relu: bool = True


@dataclass(frozen=True)
class PoolStep:
    """A max pool by itself."""

    name: str
    pool: Pool


@dataclass(frozen=True)
class NormStep:
    """Batch norm and ReLU behind the last pre-activation block."""

    name: str
    norm: Affine


@dataclass(frozen=True)
class FusedBlock:
    """A residual block with its batch norms folded already: ``v * T + w * S``.

    Attributes:
        name: As in the trained network.
        pre: Pre-activation norm; None for a block with its ReLU behind the join.
        branch: Convolutions with a ReLU between each two.
        shortcut: None for the identity.
        shortcut_scale: w, [C_out].
        branch_scale: v, [C_out].
    """

    name: str
    pre: Affine | None
    branch: tuple[Conv, ...]
    shortcut: Conv | Padding | None
    shortcut_scale: Array
    branch_scale: Array


@dataclass(frozen=True)
class FusedPixelSkip:
    """``v * d + w * image`` with ``d = relu(dense(features))`` in the shape of the image.

    Scales are [channels of the image].
    """

    dense: Linear
    shape: tuple[int, int, int]
    shortcut_scale: Array
    branch_scale: Array


Step = ConvStep | PoolStep | NormStep | FusedBlock


@dataclass(frozen=True)
class FusedNetwork:
    """A trained network with batch norm folded and scales still in place.

    Attributes:
        normalization: 1 x 1 convolution from RGB in [0, 255] to the network's channels.
        steps: In order.
        pixel_skip: The join of the first upload, behind the pool.
        classifier: The last layer.
    """

    normalization: Conv
    steps: tuple[Step, ...]
    classifier: Linear
    pixel_skip: FusedPixelSkip | None = None

    def plain_twin(self) -> FusedNetwork:
        """The same network as a plain ResNet: every scale is 1."""

        def plain(step: Step) -> Step:
            if not isinstance(step, FusedBlock):
                return step
            one = np.ones_like(step.shortcut_scale)
            return replace(step, shortcut_scale=one, branch_scale=one)

        skip = self.pixel_skip
        if skip is not None:
            one = np.ones_like(skip.shortcut_scale)
            skip = replace(skip, shortcut_scale=one, branch_scale=one)
        return replace(self, steps=tuple(map(plain, self.steps)), pixel_skip=skip)


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
        pre: Pre-activation norm, or None.
        branch: Convolutions with a ReLU between each two.
        shortcut: Convolution or padding; None where it is the identity or absent.
        join: Operator between branch and shortcut.
        kept_mul: Factors on the shortcut that could not be folded, [C_out]; None in most cases.
        output_scale: The output is stored divided by this, [C_out].
        dropped: The shortcut that w = 0 took away, where it was not the identity.
    """

    name: str
    pre: Affine | None
    branch: tuple[Conv, ...]
    shortcut: Conv | Padding | None
    join: Join
    kept_mul: Array | None
    output_scale: Array
    dropped: Conv | Padding | None = None


@dataclass(frozen=True)
class FoldedPixelSkip:
    """The pixel join as the graph has it: ``join(image, d)``, with factors where kept."""

    dense: Linear
    shape: tuple[int, int, int]
    join: Join
    image_mul: Array | None
    drawn_mul: Array | None


FoldedStep = ConvStep | PoolStep | NormStep | FoldedBlock


@dataclass(frozen=True)
class FoldedNetwork:
    """A network without foldable batch norms and without scales."""

    normalization: Conv
    steps: tuple[FoldedStep, ...]
    classifier: Linear
    pixel_skip: FoldedPixelSkip | None = None

    @property
    def blocks(self) -> tuple[FoldedBlock, ...]:
        """The residual blocks, in order."""
        return tuple(step for step in self.steps if isinstance(step, FoldedBlock))

    @property
    def kept_muls(self) -> tuple[str, ...]:
        """Names of joins in which a scale stays a Mul."""
        names = tuple(block.name for block in self.blocks if block.kept_mul is not None)
        skip = self.pixel_skip
        kept = skip is not None and (skip.image_mul is not None or skip.drawn_mul is not None)
        return (*names, "pixel_skip") if kept else names

"""Fold batch norm and learned scales into convolutions. Pure: arrays in, arrays out.

A block computes ``x' = relu(v T(x) + w S(x))``. Because ``relu(a z) = a relu(z)`` for ``a > 0``, an
activation may be stored as ``x / c`` with positive ``c`` of our choice, one a channel, as long as
whatever reads it multiplies ``c`` back in. A pre-activation block has no ReLU behind its join, so
there ``c`` may be negative as well. Choosing ``c`` block by block makes every ``w`` vanish into
neighbouring weights; docs/folding.md has the algebra. All arithmetic is float64; the graph writer
rounds once, to float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.export.arrays import (
    Affine,
    Array,
    Conv,
    ConvStep,
    FoldedBlock,
    FoldedNetwork,
    FoldedPixelSkip,
    FoldedStep,
    FusedBlock,
    FusedNetwork,
    FusedPixelSkip,
    Join,
    Linear,
    NormStep,
    Padding,
    PoolStep,
    Step,
)


class FoldError(Exception):
    """The network holds a value that can't be folded."""


@dataclass(frozen=True)
class ScaleRange:
    """Magnitudes at which an activation may be stored."""

    low: float
    high: float

    def holds(self, scale: Array) -> bool:
        """Every magnitude lies within."""
        size = np.abs(scale)
        return bool(((size >= self.low) & (size <= self.high)).all())


# Wide enough for any sensibly trained network, and far from where float32 loses digits.
SAFE_SCALE = ScaleRange(low=2.0**-16, high=2.0**16)
# float16 keeps all of its 11 bits from 2^-14 to 2^16. Stored at most 2^6 times larger or smaller,
# an activation may reach 1023 before it overflows, and loses no bit above 2^-8.
FLOAT16_SCALE = ScaleRange(low=2.0**-6, high=2.0**6)


@dataclass(frozen=True)
class Arithmetic:
    """The numbers that the folded network will be stored in.

    Attributes:
        name: As people call them.
        scales: Magnitudes at which an activation may be stored.
        largest: The largest finite number.
    """

    name: str
    scales: ScaleRange
    largest: float


FLOAT32 = Arithmetic("float32", SAFE_SCALE, float(np.finfo(np.float32).max))
FLOAT16 = Arithmetic("float16", FLOAT16_SCALE, float(np.finfo(np.float16).max))


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
    scaled = conv.times(factor)
    return replace(scaled, bias=scaled.bias - mean * factor + beta)


def fold_network(network: FusedNetwork, arithmetic: Arithmetic = FLOAT32) -> FoldedNetwork:
    """Fold every learned scale.

    Args:
        network: Batch norm folded already.
        arithmetic: What the result will be stored in; a scale beyond its range stays a Mul.

    Returns:
        A network with the same logits in real arithmetic, joined by Add, by Sub where the scale of
        a shortcut without parameters is negative, or by nothing where it is 0.

    Raises:
        FoldError: A weight or a scale is not finite, or too large for the arithmetic.

    Source: AdaResNet (arXiv 2408.09958) eq. 2 for the block.
    """
    carried = np.ones(network.normalization.channels_out)
    steps: list[FoldedStep] = []
    for step in network.steps:
        folded, carried = _fold_step(step, carried, arithmetic.scales)
        steps.append(folded)
    skip, classifier = network.pixel_skip, network.classifier
    if skip is None:
        folded_skip = None
        classifier = Linear(classifier.weight * carried, classifier.bias)
    else:
        folded_skip, classifier = _fold_pixel_skip(skip, classifier, carried, arithmetic.scales)
    result = FoldedNetwork(network.normalization, tuple(steps), classifier, folded_skip)
    _check_finite(result, arithmetic)
    return result


def _fold_step(step: Step, carried: Array, safe: ScaleRange) -> tuple[FoldedStep, Array]:
    """Fold one step whose input is stored as ``x / carried``; returns its output's scale too."""
    if isinstance(step, ConvStep):
        return replace(step, conv=step.conv.reading(carried)), np.ones(step.conv.channels_out)
    if isinstance(step, PoolStep):
        return step, carried  # a maximum passes positive scales through
    if isinstance(step, NormStep):
        return replace(step, norm=_reading(step.norm, carried)), np.ones_like(carried)
    block = _fold_block(step, carried, safe)
    return block, block.output_scale


def _fold_block(block: FusedBlock, carried: Array, safe: ScaleRange) -> FoldedBlock:
    """Fold one block whose input is stored as ``x / carried``, [C_in]."""
    w, v = block.shortcut_scale, block.branch_scale
    for scale in (w, v):
        if not np.isfinite(scale).all():
            wrong = scale[~np.isfinite(scale)][0]
            raise FoldError(f"a scale of {block.name} is {wrong:g}; train again")
    *inner, last = block.branch
    pre = None if block.pre is None else _reading(block.pre, carried)
    # What the branch and a projection read is scaled here; behind a pre-activation it is not.
    read = carried if pre is None else np.ones_like(carried)
    if isinstance(block.shortcut, Conv):
        shortcut: Conv | Padding | None = block.shortcut.reading(read).times(w)
        join, kept, scale = (Join.ADD if w.any() else Join.NONE), None, np.ones_like(w)
    else:
        shortcut = block.shortcut
        join, kept, scale = _fold_identity(
            w, _through(shortcut, carried), safe, signed=pre is not None
        )
    branch = [*inner, last.times(v / scale)]
    if not inner:
        branch[-1] = branch[-1].reading(read)
    else:
        branch[0] = branch[0].reading(read)
    if join is Join.NONE:
        return FoldedBlock(block.name, pre, tuple(branch), None, join, None, scale, block.shortcut)
    return FoldedBlock(block.name, pre, tuple(branch), shortcut, join, kept, scale)


def _fold_identity(
    w: Array, carried: Array, safe: ScaleRange, *, signed: bool
) -> tuple[Join, Array | None, Array]:
    """Choose how a shortcut without parameters joins.

    Args:
        w: The scale, [C].
        carried: Scale of what the shortcut brings, [C].
        safe: Scales at which the output may be stored.
        signed: No ReLU follows, so that the output's scale may be negative.

    Returns:
        The operator, the factors that stay a Mul or None, and the output's scale.
    """
    if not w.any():
        return Join.NONE, None, np.ones_like(w)
    product = w * carried
    if not safe.holds(product):
        # The shortcut keeps its factors, and the output goes back to scale 1.
        return Join.ADD, product, np.ones_like(w)
    if signed:
        return Join.ADD, None, product
    if (product > 0).all():
        return Join.ADD, None, product
    if (product < 0).all():
        return Join.SUB, None, -product
    # Channels of both signs: neither operator does for all, and a ReLU forbids a negative scale.
    return Join.ADD, np.sign(product), np.abs(product)


def _fold_pixel_skip(
    skip: FusedPixelSkip, classifier: Linear, carried: Array, safe: ScaleRange
) -> tuple[FoldedPixelSkip, Linear]:
    """Fold ``v * relu(dense(f)) + w * image`` into the layers on its two sides.

    Stored as ``y / w``, the image passes as it is, and d takes ``|v / w|`` through its ReLU; the
    sign decides between Add and Sub, and the classifier takes w.
    """
    w, v = skip.shortcut_scale, skip.branch_scale
    if not (np.isfinite(w).all() and np.isfinite(v).all()):
        raise FoldError("a scale of pixel_skip is not finite; train again")
    pixels = skip.shape[1] * skip.shape[2]
    ratio, outer, image_mul, drawn_mul = v, np.ones_like(w), None, None
    if not w.any():
        ratio, outer = np.ones_like(v), v
    elif safe.holds(w):
        ratio, outer = v / w, w
    else:
        image_mul = w
    join = Join.ADD if w.any() else Join.NONE
    if (ratio < 0).any():
        if (ratio <= 0).all():
            join = Join.SUB
        else:
            drawn_mul = np.sign(ratio)
    rows = np.repeat(np.abs(ratio), pixels)
    dense = Linear(skip.dense.weight * carried * rows[:, None], skip.dense.bias * rows)
    folded = Linear(classifier.weight * np.repeat(outer, pixels), classifier.bias)
    return FoldedPixelSkip(dense, skip.shape, join, image_mul, drawn_mul), folded


def _through(shortcut: Padding | None, carried: Array) -> Array:
    """Scale behind a shortcut without parameters.

    Added channels are zero at any scale, so they take the sign that the others have in common.
    """
    if shortcut is None:
        return carried
    sign = -1.0 if (carried < 0).all() else 1.0
    return np.pad(carried, (shortcut.before, shortcut.behind), constant_values=sign)


def _reading(norm: Affine, carried: Array) -> Affine:
    return replace(norm, factor=norm.factor * carried)


def _check_finite(network: FoldedNetwork, arithmetic: Arithmetic) -> None:
    arrays: list[tuple[str, Array]] = []

    def add(name: str, layer: Conv | Linear | Affine | Padding | None) -> None:
        if isinstance(layer, Conv | Linear):
            arrays.extend([(name, layer.weight), (name, layer.bias)])
        elif isinstance(layer, Affine):
            arrays.extend([(name, layer.factor), (name, layer.shift)])

    add("normalization", network.normalization)
    add("classifier", network.classifier)
    for step in network.steps:
        if isinstance(step, ConvStep):
            add(step.name, step.conv)
        elif isinstance(step, NormStep):
            add(step.name, step.norm)
        elif isinstance(step, FoldedBlock):
            add(f"{step.name}.pre", step.pre)
            add(f"{step.name}.shortcut", step.shortcut)
            if step.kept_mul is not None:
                arrays.append((f"{step.name}.shortcut", step.kept_mul))
            for index, conv in enumerate(step.branch):
                add(f"{step.name}.branch{index}", conv)
    if (skip := network.pixel_skip) is not None:
        add("pixel_skip.dense", skip.dense)
        kept = (mul for mul in (skip.image_mul, skip.drawn_mul) if mul is not None)
        arrays.extend(("pixel_skip", mul) for mul in kept)
    for name, values in arrays:
        # A NaN fails the comparison, so this finds it as well as an infinity.
        if not (np.abs(values) <= arithmetic.largest).all():
            advice = "export fp32" if arithmetic.largest < FLOAT32.largest else "train again"
            raise FoldError(f"{name} holds a value that {arithmetic.name} can't; {advice}")

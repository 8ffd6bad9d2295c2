"""What an export in each precision must keep to, and what is said when it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from service.metadata import Precision
from training.export.verify import TOLERANCE, Comparison, VerificationError

MAX_ACCURACY_LOSS = 0.01  # against PyTorch in float32, unless asked otherwise
# A golden picture's logits may differ by this much of the logit range: room for another device's
# float32 arithmetic.
GOLDEN_TOLERANCE = 1e-3
# Or by this many times what was measured here, where a precision costs more than that.
GOLDEN_MARGIN = 2.0


@dataclass(frozen=True)
class Bounds:
    """How far an exported graph may be from PyTorch's float32, on the whole test split.

    Attributes:
        tolerance: Largest logit difference, of the logit range.
        agreement: Least share of images with the same first class.
        may_force: The export may be forced beyond them: the loss is the precision's, and no fault.
    """

    tolerance: float
    agreement: float
    may_force: bool


BOUNDS: Mapping[Precision, Bounds] = MappingProxyType(
    {
        "fp32": Bounds(tolerance=TOLERANCE, agreement=0.0, may_force=False),
        "fp16": Bounds(tolerance=2e-2, agreement=0.99, may_force=True),
        "int8": Bounds(tolerance=2.5e-1, agreement=0.95, may_force=True),
    }
)


def broken_bound(comparison: Comparison, precision: Precision, max_loss: float) -> str | None:
    """The first bound that a measurement breaks, in words; None when it keeps to all.

    Args:
        comparison: What was measured.
        precision: Of the exported graph.
        max_loss: Largest loss of accuracy against PyTorch in float32, in [0, 1].
    """
    bounds = BOUNDS[precision]
    allowed = bounds.tolerance * comparison.logit_range
    # Written so that a NaN breaks each.
    if not comparison.max_abs_difference <= allowed:
        return (
            f"the {precision} graph differs from PyTorch by {comparison.max_abs_difference:.3g};"
            f" allowed is {bounds.tolerance:g} of the logit range {comparison.logit_range:.3g}"
        )
    if not comparison.batch_difference <= allowed:
        return (
            f"the {precision} graph answers an image alone and among others with a difference of"
            f" {comparison.batch_difference:.3g}; allowed is {allowed:.3g}"
        )
    if not comparison.top1_agreement >= bounds.agreement:
        return (
            f"the {precision} graph's first class is PyTorch's for"
            f" {comparison.top1_agreement:.2%} of the images; at least {bounds.agreement:.0%}"
            " are wanted"
        )
    loss = comparison.reference_accuracy - comparison.accuracy
    if not loss <= max_loss:
        return (
            f"the {precision} graph is right for {comparison.accuracy:.2%} of the images, and"
            f" PyTorch for {comparison.reference_accuracy:.2%}; --max-accuracy-loss is"
            f" {max_loss:g}"
        )
    return None


def enforce_bounds(
    comparison: Comparison, precision: Precision, max_loss: float, *, force: bool
) -> str | None:
    """Refuse an export that breaks a bound, unless it is forced and that can make sense.

    Returns:
        The broken bound, where the export is forced.

    Raises:
        VerificationError: It is refused.
    """
    broken = broken_bound(comparison, precision, max_loss)
    if broken is None:
        return None
    if not BOUNDS[precision].may_force:
        raise VerificationError(f"{broken}. Nothing was written")
    if not force:
        raise VerificationError(f"{broken}. Nothing was written; --force writes it all the same")
    return broken


def golden_tolerance(measured: float, typical: float, logit_range: float) -> float:
    """Largest logit difference that a golden picture may show on any device.

    Args:
        measured: Largest difference on the pictures themselves, here.
        typical: The 99th percentile of the differences on real images.
        logit_range: Of PyTorch's logits on real images.
    """
    return max(GOLDEN_TOLERANCE * logit_range, GOLDEN_MARGIN * max(measured, typical))

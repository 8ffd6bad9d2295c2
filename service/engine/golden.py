"""Replay a model's golden images on the device that will serve it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.engine.decode import decode_image
from service.engine.errors import ImageError, ModelLoadError
from service.engine.session import Session


@dataclass(frozen=True)
class GoldenOutcome:
    """What became of one golden image.

    Attributes:
        media_type: Of the encoded picture.
        size_bytes: Of the encoded picture.
        expected: PyTorch's first class.
        found: This session's first class; None where the picture can't be decoded.
        difference: Largest absolute logit difference; infinite where it can't be decoded.
        tolerance: Largest difference allowed.
        error: Why the picture can't be decoded.
    """

    media_type: str
    size_bytes: int
    expected: str
    found: str | None
    difference: float
    tolerance: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        """The difference is within the tolerance."""
        # Written so that a NaN fails.
        return bool(self.difference <= self.tolerance)


def compare_golden_images(session: Session, batch_size: int | None = None) -> list[GoldenOutcome]:
    """Decode and run the golden images, and compare with the logits that PyTorch gave.

    Args:
        session: That runs them.
        batch_size: So many at once; None: all.

    Returns:
        One outcome a picture, in the file's order; none where the file carries none.

    Raises:
        InferenceError: The network failed.
    """
    golden = session.metadata.golden
    if golden is None:
        return []
    size, labels = session.metadata.input, session.metadata.labels
    pixels, errors = [], {}
    for index, image in enumerate(golden.images):
        try:
            pixels.append(decode_image(image.data, size.height, size.width, size.resize))
        except ImageError as error:
            errors[index] = error.detail
    step = batch_size or len(golden.images)
    batches = (np.stack(pixels[start : start + step]) for start in range(0, len(pixels), step))
    answers = (logits for batch in batches for logits in session.run(batch).logits)
    outcomes = []
    for index, image in enumerate(golden.images):
        expected = np.array(image.logits, np.float32)
        logits = None if index in errors else next(answers)
        outcomes.append(
            GoldenOutcome(
                media_type=image.media_type,
                size_bytes=len(image.data),
                expected=labels[int(expected.argmax())],
                found=None if logits is None else labels[int(logits.argmax())],
                difference=np.inf if logits is None else float(np.abs(logits - expected).max()),
                tolerance=golden.tolerance,
                error=errors.get(index),
            )
        )
    return outcomes


def replay_golden_images(session: Session, batch_size: int | None = None) -> float | None:
    """Make sure that the golden images come out as PyTorch had them.

    Catches a changed decoder or resize, a damaged file, and arithmetic that drifted on this device.

    Args:
        session: That runs them.
        batch_size: So many at once; None: all.

    Returns:
        The largest absolute logit difference; None where the file carries no golden images.

    Raises:
        ModelLoadError: The difference is over the tolerance that the file states.
        InferenceError: The network failed.
    """
    outcomes = compare_golden_images(session, batch_size)
    if not outcomes:
        return None
    for outcome in outcomes:
        if outcome.error is not None:
            raise ModelLoadError(
                f"A golden image of the model can't be decoded: {outcome.error}",
                hint="The file is damaged; export it again.",
            )
    # A NaN is the largest difference of all, which max() alone would lose.
    difference = float(np.max([outcome.difference for outcome in outcomes]))
    if not all(outcome.passed for outcome in outcomes):
        raise ModelLoadError(
            f"On {session.provider} the golden images' logits differ from PyTorch's by"
            f" {difference:.3g}; the model allows {outcomes[0].tolerance:.3g}.",
            hint="The file, the image decoder or the device is not what the model was made for;"
            " export it again.",
        )
    return difference

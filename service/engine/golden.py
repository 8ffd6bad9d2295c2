"""Replay a model's golden images on the device that will serve it."""

from __future__ import annotations

import numpy as np

from service.engine.decode import decode_image
from service.engine.errors import ImageError, ModelLoadError
from service.engine.session import Session


def replay_golden_images(session: Session) -> float | None:
    """Decode and run the golden images, and compare with the logits that PyTorch gave.

    Catches a changed decoder or resize, a damaged file, and arithmetic that drifted on this device.

    Returns:
        The largest absolute logit difference; None where the file carries no golden images.

    Raises:
        ModelLoadError: The difference is over the tolerance that the file states.
    """
    golden = session.metadata.golden
    if golden is None:
        return None
    size = session.metadata.input
    try:
        pixels = np.stack(
            [decode_image(g.data, size.height, size.width, size.resize) for g in golden.images]
        )
    except ImageError as error:
        raise ModelLoadError(
            f"A golden image of the model can't be decoded: {error.detail}",
            hint="The file is damaged; export it again.",
        ) from error
    expected = np.array([g.logits for g in golden.images], np.float32)
    difference = float(np.abs(session.run(pixels).logits - expected).max())
    # Written so that a NaN fails.
    if not difference <= golden.tolerance:
        raise ModelLoadError(
            f"On {session.provider} the golden images' logits differ from PyTorch's by"
            f" {difference:.3g}; the model allows {golden.tolerance:.3g}.",
            hint="The file, the image decoder or the device is not what the model was made for;"
            " export it again.",
        )
    return difference

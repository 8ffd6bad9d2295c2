"""Golden images: pictures drawn here, free to ship, that travel inside the model file.

They are not photographs of anything; they exercise every step between a client's bytes and the
logits (format, mode, size, crop, colour order), and PyTorch's answer is known for each.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from service.metadata import GoldenImage

_SEED = 20240809


def draw_golden_images(height: int, width: int) -> list[tuple[str, bytes]]:
    """Draw the pictures: media type and encoded bytes of each, the same on every call.

    Args:
        height: The network's input height, pixels; some pictures have just this size.
        width: The network's input width, pixels.
    """
    rng = np.random.default_rng(_SEED)
    return [
        _png(_blobs(rng, height, width)),
        _png(_blobs(rng, height, width).convert("L")),
        _png(_blobs(rng, height * 2 + 5, width * 3 + 7)),
        _png(_blobs(rng, height * 3, width * 2).convert("P", palette=Image.Palette.ADAPTIVE)),
        _png(_with_alpha(rng, _blobs(rng, height + 9, width + 9))),
        _jpeg(_blobs(rng, height * 4, width * 4)),
    ]


def golden_image(media_type: str, data: bytes, logits: list[float]) -> GoldenImage:
    """Pack one picture with PyTorch's logits for the metadata."""
    return GoldenImage(media_type=media_type, data=base64.b64encode(data), logits=logits)


def _blobs(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Soft coloured blobs: smooth enough that decoders agree, rich enough to move every logit."""
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _with_alpha(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    alpha = Image.fromarray(rng.integers(0, 256, (3, 3), dtype=np.uint8))
    layered = picture.copy()
    layered.putalpha(alpha.resize(picture.size, Image.Resampling.BILINEAR))
    return layered


def _png(picture: Image.Image) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "image/png", buffer.getvalue()


def _jpeg(picture: Image.Image) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return "image/jpeg", buffer.getvalue()

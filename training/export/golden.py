"""Golden images: pictures drawn here, free to ship, that travel inside the model file.

They are not photographs of anything; they exercise every step between a client's bytes and the
logits (format, mode, size, crop, colour order), and PyTorch's answer is known for each.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from service.metadata import GoldenImage

_SEED = 20240809
_ORIENTATION = 0x0112  # EXIF tag


def draw_golden_images(height: int, width: int) -> list[tuple[str, bytes]]:
    """Draw the pictures: media type and encoded bytes of each, the same on every call.

    Every mode and subsampling that clients send, smaller and larger than the input, wide and tall.
    Large ones are JPEG, so that the file stays small.

    Args:
        height: The network's input height, pixels; some pictures have just this size.
        width: The network's input width, pixels.
    """
    rng = np.random.default_rng(_SEED)

    def blobs(tall: float, wide: float) -> Image.Image:
        """Soft coloured blobs, of a size relative to the input's."""
        size = max(2, round(height * tall)), max(2, round(width * wide))
        return _blobs(rng, *size)

    return [
        _png(blobs(1, 1)),
        _png(blobs(1, 1).convert("L")),
        _png(blobs(0.6, 0.8)),
        _png(_deep(blobs(0.7, 1.3))),
        _png(blobs(1.5, 0.9).convert("P", palette=Image.Palette.ADAPTIVE)),
        _png(_with_alpha(rng, blobs(1.2, 0.7))),
        _png(blobs(2.1, 2.6).convert("1")),
        _jpeg(blobs(3, 2), subsampling="4:2:0"),
        _jpeg(blobs(1.4, 3.1), subsampling="4:4:4"),
        _jpeg(blobs(1.7, 1.6).convert("L")),
        _jpeg(blobs(0.9, 2.2).convert("CMYK")),
        _jpeg(blobs(1.3, 2.4), turned=True),
    ]


def golden_image(
    media_type: str, data: bytes, logits: list[float], labels: Sequence[str]
) -> GoldenImage:
    """Pack one picture with PyTorch's logits, and the first class by them, for the metadata."""
    first = labels[logits.index(max(logits))]
    encoded = base64.b64encode(data)
    return GoldenImage(media_type=media_type, data=encoded, logits=logits, label=first)


def _blobs(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Soft coloured blobs: smooth enough that decoders agree, rich enough to move every logit."""
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _with_alpha(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    alpha = Image.fromarray(rng.integers(0, 256, (3, 3), dtype=np.uint8))
    layered = picture.copy()
    layered.putalpha(alpha.resize(picture.size, Image.Resampling.BILINEAR))
    return layered


def _deep(picture: Image.Image) -> Image.Image:
    """16 bits of grey; the lower ones are not zero."""
    samples = np.asarray(picture.convert("L")).astype(np.uint16)
    return Image.fromarray(samples * 255 + samples // 2)


def _png(picture: Image.Image) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "image/png", buffer.getvalue()


def _jpeg(
    picture: Image.Image, subsampling: str = "4:2:0", *, turned: bool = False
) -> tuple[str, bytes]:
    buffer, exif = io.BytesIO(), Image.Exif()
    if turned:
        exif[_ORIENTATION] = 6  # the camera was held upright: a viewer turns it by 90 degrees
    picture.save(buffer, "JPEG", quality=92, subsampling=subsampling, exif=exif)
    return "image/jpeg", buffer.getvalue()

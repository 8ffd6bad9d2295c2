"""Image files as base64 text, wherever JSON carries them."""

from __future__ import annotations

import base64
import binascii

from service.engine.errors import ImageDecodeError, ImageError

_WHITE_SPACE = b" \t\n\r\v\f\x1c\x1d\x1e\x1f"


def decode_base64(text: str) -> bytes | ImageError:
    """Decode base64 or a base64 data URL; an error where it is neither."""
    if text[:5].lower() == "data:":
        header, _, text = text.partition(",")
        if not header.lower().endswith(";base64"):
            return ImageDecodeError(
                "The data URL is not base64.", hint="Write data:image/png;base64,..."
            )
    try:
        # Line breaks, as many encoders write them, carry no data. Splitting there would make an
        # object of every word, and a text may have millions.
        plain = text.encode("ascii").translate(None, _WHITE_SPACE)
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        return ImageDecodeError(
            "The text is not valid base64.", hint="Encode the image file's bytes as base64."
        )

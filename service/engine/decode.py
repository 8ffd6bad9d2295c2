"""Encoded image bytes to the uint8 RGB pixels that a network takes.

The one definition of decoding and resizing: training data, golden images and requests all pass
here, so a served picture has the same pixels as one seen in training. Pillow frees the GIL while it
decodes, so callers run this in threads. Only the formats in ``FORMATS`` are ever tried.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from service.engine.errors import ImageDecodeError, ImageError, ImageTooLargeError
from service.metadata import Resize

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
DEFAULT_MAX_PIXELS = 40_000_000
BACKGROUND = (255, 255, 255)  # behind transparent pixels; most pictures are shown on white

_FORMAT_HINT = f"Send a complete {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image."
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_BLOCK = 1 << 20  # samples
_SMALLER_HINT = "Send a smaller picture; the network sees only a small one anyway."
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def decode_image(
    data: bytes,
    height: int,
    width: int,
    resize: Resize,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Decode one image and bring it to the network's size.

    EXIF orientation is applied; transparency is composited on white; 16-bit samples are scaled to
    8 bits; of an animation the first frame is taken.

    Args:
        data: A whole file in one of ``FORMATS``.
        height: Wanted height, pixels.
        width: Wanted width, pixels.
        resize: Crop rule and filter.
        max_pixels: Largest width times height that is decoded at all.

    Returns:
        RGB pixels, uint8 [height, width, 3].

    Raises:
        ImageDecodeError: The bytes are no image in one of ``FORMATS``, or a damaged one.
        ImageTooLargeError: The image has more than ``max_pixels`` pixels.
    """
    if not data:
        raise ImageDecodeError("The image has no bytes.", hint=_FORMAT_HINT)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.width, image.height, max_pixels)
            image.load()
            # A broken EXIF block says nothing about the pixels: keep them as they are.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            plain = _to_plain(image)
        # Sized before it is composited: of a large picture no second copy in full size is made.
        return np.asarray(_on_background(_fitted(plain, height, width, resize)))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageDecodeError(
            f"The {len(data)} bytes are not an image in a format that the service reads.",
            hint=_FORMAT_HINT,
        ) from None
    except Image.DecompressionBombError:
        # Pillow's own limit, twice 89 million pixels, which holds even where ours is higher.
        raise ImageTooLargeError(
            "The image has more pixels than any picture should.", hint=_SMALLER_HINT
        ) from None
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise ImageDecodeError(
            f"The image is damaged or truncated ({type(error).__name__}).", hint=_FORMAT_HINT
        ) from error


def fit_image(
    pixels: NDArray[np.uint8], height: int, width: int, resize: Resize
) -> NDArray[np.uint8]:
    """Bring already decoded pixels to the network's size, as ``decode_image`` would.

    Args:
        pixels: RGB pixels, uint8 [H, W, 3].
        height: Wanted height, pixels.
        width: Wanted width, pixels.
        resize: Crop rule and filter.

    Returns:
        uint8 [height, width, 3].
    """
    return np.asarray(_fitted(Image.fromarray(pixels), height, width, resize))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"The image has {width} x {height} = {width * height} pixels; the limit is"
            f" {max_pixels}.",
            hint=_SMALLER_HINT,
        )


def _to_plain(image: Image.Image) -> Image.Image:
    """To 8-bit grey, RGB or RGBA: modes that can be resized without loss of meaning."""
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bits(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _on_background(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(canvas, image).convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit or float grey to 8 bits; Pillow's own conversion would clip at 255."""
    samples = np.asarray(image)
    if image.mode == "F":
        # Float pictures are in [0, 1] or [0, 255] by convention; nothing in the file says which.
        full_scale = 1.0 if samples.size and np.nanmax(samples) <= 1.0 else 255.0
    else:
        full_scale = 65535.0
        if image.format == "TIFF" and image.getexif().get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
            # Pillow turns such pictures the right way round up to 8 bits only.
            samples = 65535 - samples
    scaled = np.empty(samples.shape, np.uint8)
    flat, into = samples.reshape(-1), scaled.reshape(-1)
    # In blocks: in one go, a 40-megapixel picture would take a gigabyte in between.
    for start in range(0, len(flat), _BLOCK):
        values = np.nan_to_num(flat[start : start + _BLOCK]) * (255.0 / full_scale)
        into[start : start + _BLOCK] = np.rint(np.clip(values, 0.0, 255.0))
    grey = Image.fromarray(scaled)
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    alpha = Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8))
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _fitted(image: Image.Image, height: int, width: int, resize: Resize) -> Image.Image:
    # Whoever sends the network's own size has cropped already.
    if image.size == (width, height):
        return image
    box = (0.0, 0.0, float(image.width), float(image.height))
    if resize.rule == "center_crop":
        # Crop and resize in one step: resizing a 1 x 40,000,000 strip by its shorter side first
        # would need gigabytes.
        scale = min(image.width / width, image.height / height) * resize.crop
        left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
    return image.resize((width, height), _RESAMPLING[resize.filter], box=box)

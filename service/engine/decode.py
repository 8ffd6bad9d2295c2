"""Encoded image bytes to the uint8 RGB pixels that a network takes.

The one definition of decoding and resizing: training data, golden images and requests all pass
here, so a served picture has the same pixels as one seen in training. Both decoders free the GIL
while they decode, so callers run this in threads. Only the formats in ``FORMATS`` are ever tried.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from service.engine.avif import screen_avif
from service.engine.errors import ImageDecodeError, ImageError, ImageTooLargeError
from service.engine.jpeg import exact_decoder, plain_size
from service.engine.ppm import decode_scaled, is_scaled
from service.engine.reduction import reduce_decoding, reduction_of
from service.engine.screening import (
    SMALLER_HINT,
    MeteredFile,
    check_pixels,
    has_many_scans,
    is_common_exif,
    screen_file,
    screen_opened,
)
from service.metadata import Resize

# Imported by name: Pillow would else load its plugins for all other formats to look for these.
_PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    AvifImagePlugin.AvifImageFile,
    PpmImagePlugin.PpmImageFile,
)
FORMATS = tuple(plugin.format for plugin in _PLUGINS)
DEFAULT_MAX_PIXELS = 40_000_000
BACKGROUND = (255, 255, 255)  # behind transparent pixels; most pictures are shown on white

_FORMAT_HINT = f"Send a complete {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image."
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_BLOCK = 1 << 20  # samples
# Above this, resizing and libjpeg-turbo take the time, and those are the same on both ways.
_SMALL_PIXELS = 256 * 256
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class DecodeOptions:
    """How pictures are decoded.

    Attributes:
        decoder: ``auto`` takes simplejpeg for small plain JPEGs, where it is installed and gives
            exactly Pillow's pixels; ``pillow`` never does. Pixels and errors are the same.
        jpeg_draft: Decode large JPEGs at 1/2, 1/4 or 1/8 of their size, which is about twice as
            fast; see ``service.engine.reduction``. Pixels change a little: training saw others.
        timeout_s: Processor time for one picture, looked at whenever its decoder reads on; 0: any.
    """

    decoder: Literal["auto", "pillow"] = "auto"
    jpeg_draft: bool = False
    timeout_s: float = 0.0


DEFAULT_OPTIONS = DecodeOptions()


def decode_image(
    data: bytes | memoryview,
    height: int,
    width: int,
    resize: Resize,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    options: DecodeOptions = DEFAULT_OPTIONS,
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
        options: Which decoder, and whether large JPEGs may be reduced while they are decoded.

    Returns:
        RGB pixels, uint8 [height, width, 3].

    Raises:
        ImageDecodeError: The bytes are no image in one of ``FORMATS``, or a damaged one.
        ImageTooLargeError: The image has more than ``max_pixels`` pixels.
        ImageTooSlowError: It takes longer than ``options.timeout_s``.
    """
    out = np.empty((height, width, 3), np.uint8)
    if _decode_plain_jpeg(data, out, resize, max_pixels, options):
        return out
    return _decode_with_pillow(data, height, width, resize, max_pixels, options)


def decode_into(
    data: bytes | memoryview,
    out: NDArray[np.uint8],
    resize: Resize,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> None:
    """Decode one image into its place in a batch, as ``decode_image`` would: one copy less.

    Args:
        data: A whole file in one of ``FORMATS``.
        out: uint8 [height, width, 3] of the network's size; undefined after an error.
        resize: Crop rule and filter.
        max_pixels: Largest width times height that is decoded at all.
        options: As of ``decode_image``.

    Raises:
        ImageDecodeError: The bytes are no image in one of ``FORMATS``, or a damaged one.
        ImageTooLargeError: The image has more than ``max_pixels`` pixels.
        ImageTooSlowError: It takes longer than ``options.timeout_s``.
    """
    if not _decode_plain_jpeg(data, out, resize, max_pixels, options):
        height, width, _ = out.shape
        out[...] = _decode_with_pillow(data, height, width, resize, max_pixels, options)


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


def _decode_plain_jpeg(
    data: bytes | memoryview,
    out: NDArray[np.uint8],
    resize: Resize,
    max_pixels: int,
    options: DecodeOptions,
) -> bool:
    """Fill ``out`` past Pillow where that is faster; False leaves the picture to Pillow."""
    size = plain_size(data) if options.decoder == "auto" else None
    if size is None:
        return False
    height, width, _ = out.shape
    fits = size == (width, height)
    # Pillow refuses what is too large, as it does whatever simplejpeg finds odd: one message each.
    if size[0] * size[1] > max_pixels or not (fits or size[0] * size[1] <= _SMALL_PIXELS):
        return False
    if options.jpeg_draft and reduction_of(size, (width, height), resize) > 1:
        return False
    if has_many_scans(data, size[0] * size[1]):
        return False
    decode = exact_decoder()
    if decode is None:
        return False
    try:
        if fits and out.flags.c_contiguous and out.dtype == np.uint8:
            decode(data, buffer=out)
        else:
            out[...] = fit_image(decode(data), height, width, resize)
    except Exception:
        return False
    return True


def _decode_with_pillow(
    data: bytes | memoryview,
    height: int,
    width: int,
    resize: Resize,
    max_pixels: int,
    options: DecodeOptions,
) -> NDArray[np.uint8]:
    if not data:
        raise ImageDecodeError("The image has no bytes.", hint=_FORMAT_HINT)
    try:
        screen_file(data)
        screen_avif(data, max_pixels)
        file = MeteredFile(data, options.timeout_s)
        with Image.open(file, formats=FORMATS) as image:
            check_pixels(image.width, image.height, max_pixels)
            extent = None
            if is_scaled(image):
                plain = decode_scaled(image, data)
            else:
                screen_opened(image, file, data, max_pixels)
                if options.jpeg_draft:
                    extent = reduce_decoding(image, (width, height), resize)
                plain = _load(image)
        # Sized before it is composited: of a large picture no second copy in full size is made.
        return np.asarray(_on_background(_fitted(plain, height, width, resize, extent)))
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
            "The image has more pixels than any picture should.", hint=SMALLER_HINT
        ) from None
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise ImageDecodeError(
            f"The image is damaged or truncated ({type(error).__name__}).", hint=_FORMAT_HINT
        ) from error


def _load(image: Image.Image) -> Image.Image:
    image.load()
    # A broken EXIF block says nothing about the pixels: keep them as they are.
    if is_common_exif(image):
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    return _to_plain(image)


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
        # Converting RGB to RGB would copy it.
        return image if image.mode == "RGB" else image.convert("RGB")
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


def _fitted(
    image: Image.Image,
    height: int,
    width: int,
    resize: Resize,
    extent: tuple[float, float] | None = None,
) -> Image.Image:
    """To the network's size; ``extent`` is the picture's, where it fills its last pixels partly."""
    # Whoever sends the network's own size has cropped already.
    if image.size == (width, height):
        return image
    across, down = extent or image.size
    box = (0.0, 0.0, float(across), float(down))
    if resize.rule == "center_crop":
        # Crop and resize in one step: resizing a 1 x 40,000,000 strip by its shorter side first
        # would need gigabytes.
        scale = min(across / width, down / height) * resize.crop
        # Rounding may leave the picture by a trillionth of a pixel, which Pillow refuses.
        left = max(0.0, (across - width * scale) / 2)
        top = max(0.0, (down - height * scale) / 2)
        right, bottom = min(left + width * scale, across), min(top + height * scale, down)
        box = (left, top, float(right), float(bottom))
    return image.resize((width, height), _RESAMPLING[resize.filter], box=box)

"""A faster decoder for plain JPEGs, used only where it gives exactly Pillow's pixels.

For a small picture Pillow's own bookkeeping takes several times as long as decoding does.
simplejpeg is a thin layer over the same libjpeg-turbo. ``plain_size`` lets through only files about
whose header both agree, simplejpeg is asked to stop at the first oddity inside (``strict``), and
``exact_decoder`` compares both on this machine before it is used. Everything else is Pillow's to
decode or to refuse, so pixels and errors are the same with and without simplejpeg.
"""

from __future__ import annotations

import functools
import io
import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_logger = logging.getLogger(__name__)

_START, _SCAN, _END = b"\xff\xd8", 0xDA, b"\xff\xd9"
# Baseline, extended and progressive, with Huffman codes. Lossless frames above all stay out.
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
_TABLES_AND_COMMENTS = frozenset((0xC4, 0xDB, 0xDD, 0xFE))
_JFIF, _COLOR_PROFILE = 0xE0, 0xE2
_PROFILE_NAME = b"ICC_PROFILE\0"
# Shorter than this, Pillow stumbles over either of the two.
_SHORTEST_BLOCK = 16
# Grey, 4:4:4, 4:2:2 and 4:2:0, as sampling factors of the components.
_SAMPLINGS = frozenset((b"\x11", b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11"))
# A picture has about ten; a file of millions of empty ones would hold up the interpreter.
_MOST_SEGMENTS = 64


class Decoder(Protocol):
    """Decodes a whole JPEG and frees the GIL meanwhile; any oddity is an error."""

    def __call__(
        self, data: bytes | memoryview, *, buffer: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [H, W, 3]; in ``buffer``, C-contiguous, where it is given."""


def plain_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Width and height of a JPEG whose header has nothing unusual.

    Unusual are EXIF and XMP (which may turn the picture), Adobe's colour transforms, CMYK, several
    pictures in one file, lossless and arithmetic coding, stray bytes, rare chroma sampling.

    Args:
        data: Any bytes.

    Returns:
        Pixels, as the header declares them; None for all that is to be left to Pillow.
    """
    if data[:2] != _START:
        return None
    size, at, last = None, 2, len(data) - 4
    for _ in range(_MOST_SEGMENTS):
        if at > last or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == _SCAN:
            return size
        length = data[at + 2] << 8 | data[at + 3]
        if marker in _FRAMES:
            if size is not None:
                return None
            size = _frame_size(bytes(data[at + 4 : at + 2 + length]))
            if size is None:
                return None
        elif marker not in _TABLES_AND_COMMENTS and not _is_harmless(data, at, marker, length):
            return None
        at += 2 + length
    return None


@functools.cache
def exact_decoder() -> Decoder | None:
    """Simplejpeg's decoder, where it is installed and gives Pillow's pixels here.

    The two come with a libjpeg-turbo each, of different versions, and Pillow may be linked to
    another library altogether. So both decode a few pictures of every kind, once, in some
    milliseconds; any difference, and simplejpeg is not used.
    """
    try:
        from simplejpeg import decode_jpeg  # type: ignore[import-untyped]
    except ImportError:
        return None
    decode: Decoder = decode_jpeg
    if all(_is_same(decode, data) for data in _examples()):
        return decode
    _logger.warning("simplejpeg's pixels differ from Pillow's here: JPEGs are decoded by Pillow.")
    return None


def _frame_size(frame: bytes) -> tuple[int, int] | None:
    """Size in a frame header without marker and length, if all else in it is plain."""
    plain = len(frame) > 6 and frame[0] == 8 and len(frame) == 6 + 3 * frame[5]
    if not plain or frame[7::3] not in _SAMPLINGS:
        return None
    height, width = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
    return (width, height) if width and height else None


def _is_harmless(data: bytes | memoryview, at: int, marker: int, length: int) -> bool:
    if length < _SHORTEST_BLOCK:
        return False
    if marker == _COLOR_PROFILE:
        return data[at + 4 : at + 4 + len(_PROFILE_NAME)] == _PROFILE_NAME
    return marker == _JFIF


def _is_same(decode: Decoder, data: bytes) -> bool:
    try:
        got = decode(data)
    except Exception:  # whatever a foreign build may raise: it is no use then
        return False
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.array_equal(got, np.asarray(image.convert("RGB")))


def _examples() -> list[bytes]:
    """JPEGs of every kind that ``plain_size`` lets through, of sizes that fill no whole block."""
    row, column = np.mgrid[0:45, 0:61]
    waves = [np.sin(row / (2 + k) + k) + np.cos(column * row / (40 + 9 * k)) for k in range(3)]
    picture = Image.fromarray((127 + 60 * np.stack(waves, axis=-1)).astype(np.uint8))
    found = []
    for progressive in (False, True):
        found.append(_encoded(picture.convert("L"), progressive))
        found += [_encoded(picture, progressive, subsampling=kind) for kind in (0, 1, 2)]
    # A progressive picture that ends early is whole for libjpeg, which smooths it.
    scan = bytes((0xFF, _SCAN))
    found += [scan.join(data.split(scan)[:4]) + _END for data in found[5:]]
    return found


def _encoded(picture: Image.Image, progressive: bool, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80, progressive=progressive, **options)
    return buffer.getvalue()

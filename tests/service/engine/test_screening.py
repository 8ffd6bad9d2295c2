from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from service.engine.decode import FORMATS, DecodeOptions, decode_image
from service.engine.decoding import _is_tiny
from service.engine.errors import ImageDecodeError, ImageTooLargeError, ImageTooSlowError
from service.engine.screening import MeteredFile
from service.metadata import Resize
from tests.resilience.hostile.bombs import bombs
from tests.resilience.hostile.crafted import (
    END,
    LONG,
    TILE_WIDTH,
    chunk,
    encoded,
    good_files,
    grey_tiff,
    header,
    jpeg_with,
    noise,
    pixels,
    png,
    segment,
    tiled_tiff,
)


def decoded(data: bytes) -> np.ndarray:
    return decode_image(data, 8, 8, Resize())


@pytest.mark.parametrize("kind", good_files())
def test_good_files_pass(kind):
    assert decoded(good_files()[kind]).shape == (8, 8, 3)


def test_no_other_plugin_is_loaded():
    assert set(FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize(
    "data",
    [
        encoded(noise(size=(1500, 1500)), "TIFF", compression="raw", strip_size=1500 * 3),
        encoded(noise(size=(1000, 1000)), "PNG", compress_level=0),
        encoded(noise(size=(600, 600)), "JPEG", exif=b"Exif\0\0" + bytes(60_000), quality=95),
        encoded(noise(size=(600, 600)), "JPEG", icc_profile=bytes(3_000_000), progressive=True),
        b"P6 1000 1000 65535 " + bytes(6_000_000),
        b"P6\n# by a program\n2 2\n255\n" + bytes(12),
    ],
    ids=["a strip a row", "large PNG", "EXIF", "large profile", "16 bits", "comment"],
)
def test_unusual_files_that_are_good_pass(data):
    assert decoded(data).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "case", [case for case in bombs() if case.expected == {422}], ids=lambda case: case.name
)
def test_bombs_are_refused(case):
    data = case.script[-1]
    assert isinstance(data, bytes)
    with pytest.raises((ImageDecodeError, ImageTooLargeError)) as raised:
        decoded(data)
    assert len(raised.value.detail) > 20


def test_a_file_that_is_read_too_often():
    file = MeteredFile(bytes(10_000))
    assert all(file.read(1) for _ in range(8000))
    assert len(file.read()) == 2000
    with pytest.raises(ImageDecodeError, match="many more parts"):
        list(iter(file.read, None))
    with pytest.raises(ImageDecodeError, match="many more parts"):
        decoded(jpeg_with(segment(0xE5) * 5000))


def test_a_file_that_takes_too_long():
    """Processor time counts, so that waiting is free."""
    data = encoded(noise(size=(2000, 2000)), "PNG")
    size, rule = (8, 8), Resize()
    hasty, patient = DecodeOptions(timeout_s=0.001), DecodeOptions(timeout_s=60)
    with pytest.raises(ImageTooSlowError, match=r"0\.001 s of processor time"):
        decode_image(data, *size, rule, options=hasty)
    assert decode_image(data, *size, rule, options=patient).shape == (8, 8, 3)
    file = MeteredFile(data, 0.05)
    time.sleep(0.1)
    assert file.read(8)


def test_slow_forms_may_have_only_some_pixels():
    with pytest.raises(ImageTooLargeError, match="slow to decode"):
        decoded(b"P3 1100 1000 255 " + b"7 " * 3_300_000)


@pytest.mark.parametrize("maximum", [1, 100, 254, 256, 1000, 65535])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_other_maxima_give_the_pixels_of_pillow(maximum, kind, rng):
    values = rng.integers(0, min(2 * maximum, 65535) + 1, (8, 8, 3 if kind == "P6" else 1))
    raw = values.astype(">u2" if maximum > 255 else "u1").tobytes()
    data = f"{kind} 8 8 {maximum} ".encode() + raw
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image).reshape(8, 8, -1)
    if image.mode.startswith("I"):
        expected = np.rint(expected * (255 / 65535))
    assert (decoded(data) == expected).all()


def test_other_maxima_with_pixels_missing():
    with pytest.raises(ImageDecodeError, match="truncated"):
        decoded(b"P6 8 8 254 " + bytes(191))


def test_parts_may_not_cover_the_picture_again_and_again():
    offsets = struct.pack("<100I", *(range(1000, 1200, 2)))
    overlapping = grey_tiff(40, 40, strips=100, rows=39, data=offsets + bytes(5000))
    with pytest.raises(ImageDecodeError, match="parts are more than the picture"):
        decoded(overlapping)


def tiles(size: tuple[int, int], tile: tuple[int, int], *more: tuple[int, int, int, int]) -> bytes:
    number = -(-size[0] // tile[0]) * -(-size[1] // tile[1])
    return tiled_tiff(size, tile, *more, data=zlib.compress(bytes(tile[0] * tile[1])), tiles=number)


@pytest.mark.parametrize(
    ("size", "tile"),
    [((8, 8), (1024, 1024)), ((1, 1000), (256, 256)), ((1001, 1001), (512, 512))],
)
def test_tiles_may_stand_out_over_their_picture(size, tile):
    data = tiles(size, tile)
    assert decode_image(data, 8, 8, Resize(), size[0] * size[1]).shape == (8, 8, 3)


def test_tiles_may_not_be_much_more_than_their_picture():
    """Each is decoded as a whole, however little of it is in the picture."""
    with pytest.raises(ImageTooLargeError, match=r"parts of 1200 x 1200 = 1440000 pixels"):
        decode_image(tiles((8, 8), (1200, 1200)), 8, 8, Resize(), 1_000_000)
    with pytest.raises(ImageDecodeError, match="parts are more than the picture"):
        decode_image(tiles((1, 5000), (1000, 1000)), 8, 8, Resize(), 1_000_000)


def test_pillow_and_libtiff_see_the_same_tiles():
    with pytest.raises(ImageDecodeError, match="tag 322 is not one number"):
        decoded(tiles((8, 8), (16_000, 16), (TILE_WIDTH, LONG, 1, 16)))
    entry = struct.pack("<HHI", TILE_WIDTH, LONG, 1)
    signed = tiles((8, 8), (16_000, 16)).replace(entry, struct.pack("<HHI", TILE_WIDTH, 17, 1))
    with pytest.raises(ImageDecodeError, match="tag 322 is not one number"):
        decoded(signed)


def test_only_the_turn_of_a_common_exif_counts():
    turned = Image.new("RGB", (8, 4), (255, 0, 0))
    exif = Image.Exif()
    exif[274] = 6
    exif[0x9286] = b"a" * 2**21
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    assert decoded(buffer.getvalue()).shape == (8, 8, 3)


def test_what_only_looks_tiny_is_not_decoded_at_once():
    assert _is_tiny(png(header(8, 8), pixels(bytes(200)), END))
    assert not _is_tiny(png(header(8, 8), chunk(b"zTXt", b"a"), pixels(bytes(200)), END))
    assert not _is_tiny(png(header(8, 8), header(5000, 5000, 1, 0), pixels(b""), END))
    assert not _is_tiny(png(chunk(b"abCd", struct.pack(">II", 1, 1)), header(5000, 5000), END))

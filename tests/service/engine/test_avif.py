from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from service.engine.avif import screen_avif
from service.engine.decode import decode_image
from service.engine.errors import ImageDecodeError, ImageError, ImageTooLargeError
from service.metadata import Resize
from tests.resilience.hostile.avif import Item, avif, box, grid, info, infos, meta, type_of_file
from tests.resilience.hostile.crafted import encoded, noise

SIDE, LIMIT = 200, 150 * 150
SMALL = struct.pack(">II", 32, 32)
GREY = encoded(Image.new("L", (64, 64), 70), "AVIF")
# All of its data in AV1: a unit that says that a picture begins, a sequence header, one frame.
STREAM = GREY[GREY.index(b"mdat") + 4 :]
FRAME = STREAM[2 + 2 + STREAM[3] :]


# The first property again and again.
SHARED = box(b"ipma", struct.pack(">IIHB", 0, 1, 1, 100), b"\1" * 100)


def picture(mode: str = "RGB", side: int = SIDE) -> Image.Image:
    return Image.new(mode, (side, side), (200, 100, 50, 90)[: len(mode)])


def movie(mode: str = "RGB") -> bytes:
    more = [noise(mode, (SIDE, SIDE)), noise(mode, (SIDE, SIDE))]
    return encoded(picture(mode), "AVIF", save_all=True, append_images=more)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    exif[270] = "a picture"
    return exif


GOOD = {
    "RGB": encoded(picture(), "AVIF"),
    "grey": encoded(picture().convert("L"), "AVIF"),
    "RGBA": encoded(picture("RGBA"), "AVIF"),
    "4:4:4": encoded(picture(), "AVIF", subsampling="4:4:4"),
    "tiled frame": encoded(picture(), "AVIF", tile_rows=1, tile_cols=1),
    "metadata": encoded(picture(), "AVIF", icc_profile=bytes(3000), xmp=b"<x/>", exif=turned()),
    "animated": movie(),
    "animated with transparency": movie("RGBA"),
    "in pieces": avif(Item(STREAM, (64, 64), pieces=5)),
    "inside": avif(Item(STREAM, (64, 64), is_inside=True)),
    "grid": avif(
        Item(grid(2, 2, 128, 100), (128, 100), b"grid", refers=(2, 3, 4, 5), is_inside=True),
        *(Item(STREAM, (64, 64)) for _ in range(4)),
    ),
    "scaled": avif(Item(STREAM, (50, 70))),
    "something behind": encoded(picture(), "AVIF") + b"\0\0\0\x09free" + bytes(100),
    "a picture behind": encoded(picture(), "AVIF") * 2,
    "a long size": encoded(picture(), "AVIF") + b"\0\0\0\1free" + struct.pack(">Q", 20) + bytes(4),
}


def decoded(data: bytes | memoryview, max_pixels: int = LIMIT) -> np.ndarray:
    return decode_image(data, 8, 8, Resize(), max_pixels)


def lying(data: bytes) -> bytes:
    """With 32 x 32 wherever a size is stated."""
    size = struct.pack(">II", SIDE, SIDE)
    assert size in data
    track = struct.pack(">II", SIDE << 16, SIDE << 16)
    return data.replace(size, SMALL).replace(track, struct.pack(">II", 32 << 16, 32 << 16))


@pytest.mark.parametrize("kind", GOOD)
def test_good_files_pass(kind):
    assert decoded(GOOD[kind], SIDE * SIDE).shape == (8, 8, 3)
    assert (decoded(memoryview(GOOD[kind]), SIDE * SIDE) == decoded(GOOD[kind], SIDE * SIDE)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 99), (63, 65), (199, 3)])
def test_odd_sizes_pass(size):
    assert decoded(encoded(noise(size=size), "AVIF"), size[0] * size[1]).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "kind",
    ["RGB", "grey", "RGBA", "4:4:4", "tiled frame", "animated", "animated with transparency"],
)
def test_what_is_decoded_counts_and_not_what_is_stated(kind):
    data = lying(GOOD[kind])
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (32, 32)
        image.load()  # so the file is as good as any
    with pytest.raises(ImageTooLargeError, match="200 x 200 = 40000 pixels; the limit is 22500"):
        decoded(data)


def test_a_large_track_beside_a_small_picture():
    small, large = Image.new("RGB", (40, 40)), movie()
    still = encoded(small, "AVIF")
    data = still + large[large.index(b"moov") - 4 :]
    with pytest.raises(ImageTooLargeError):
        decoded(data)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([Item(STREAM, (200, 200))], "200 x 200"),
        ([Item(grid(1, 1, 200, 200), (64, 64), b"grid", refers=(2,))], "200 x 200"),
        ([Item(b"\0\0\0\0" + struct.pack(">HH", 200, 200), (64, 64), b"grid")], "200 x 200"),
        ([Item(STREAM + FRAME * 23, (64, 64))], "more than 4 times"),
        ([Item(STREAM, (64, 64)) for _ in range(25)], "more than 4 times"),
    ],
    ids=["scaled up", "grid", "grid of short sizes", "frames", "pictures"],
)
def test_what_is_made_of_it_counts_too(items, reason):
    with pytest.raises(ImageTooLargeError, match=reason):
        screen_avif(avif(*items), LIMIT)


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([infos(*(info(n, b"abcd") for n in range(1, 20_000)))], "many more parts"),
        ([box(b"iref", bytes(40_000))], "many more parts"),
        ([box(b"iprp", box(b"ipco", box(b"abcd", bytes(2**18))), SHARED)], "same data"),
        ([box(b"iprp", box(b"ipco"), SHARED)], "boxes are damaged"),
        ([box(b"iinf", bytes(6)), box(b"iinf", bytes(6))], "boxes twice"),
        ([box(b"iinf")], "boxes are damaged"),
        ([struct.pack(">I4s", 7, b"free")], "boxes are damaged"),
        ([b"\0\0\0"], "boxes are damaged"),
    ],
)
def test_odd_boxes_are_refused(boxes, reason):
    with pytest.raises(ImageDecodeError, match=reason):
        screen_avif(type_of_file() + meta(*boxes), LIMIT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(FRAME, "headers of its AV1 data"), (b"\x12\0" * 20_000, "many more parts")],
)
def test_odd_data_is_refused(data, reason):
    with pytest.raises(ImageDecodeError, match=reason):
        screen_avif(avif(Item(data, (64, 64))), LIMIT)


def test_other_files_are_nothing_to_it():
    screen_avif(b"", LIMIT)
    screen_avif(encoded(noise(), "PNG"), 1)
    screen_avif(box(b"ftyp", b"heic", bytes(4)), 1)
    with pytest.raises(UnidentifiedImageError):
        screen_avif(type_of_file(), LIMIT)
    with pytest.raises(ImageDecodeError, match="not an image in a format"):
        decoded(type_of_file() + meta(infos(info(1, b"hvc1"))))


@given(st.data())
def test_damage_is_found_or_harmless(data):
    """What passes under a limit below all that is in the file has nothing that can be decoded."""
    changed = bytearray(GOOD[data.draw(st.sampled_from(["RGBA", "animated", "in pieces", "grid"]))])
    boxes = range(8, changed.index(b"mdat"))
    for at in data.draw(st.lists(st.sampled_from(boxes), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    try:
        screen_avif(bytes(changed), 1000)
    except (ImageError, UnidentifiedImageError):
        return
    with pytest.raises(Exception), Image.open(io.BytesIO(changed), formats=["AVIF"]) as image:  # noqa: B017, PT011
        image.load()

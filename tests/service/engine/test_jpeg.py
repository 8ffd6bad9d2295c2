from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.engine import decode as decode_module
from service.engine.decode import DecodeOptions, decode_image, decode_into
from service.engine.errors import ImageError, ImageTooLargeError
from service.engine.jpeg import exact_decoder, plain_size
from service.metadata import Resize
from tests.conftest import REAL_DATA
from training.data.splits import decode_to_square

PILLOW = DecodeOptions(decoder="pillow")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Waves with noise: flat parts, edges and colours, as photographs have."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:height, 0:width]
    waves = [np.sin(row / (2 + k) + seed) + np.cos(column / (3 + k)) for k in range(3)]
    noisy = 127 + 55 * np.stack(waves, axis=-1) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def with_frame(data: bytes, **bytes_at: int) -> bytes:
    """The same file with bytes of its frame header replaced; ``at0`` is the marker's own."""
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 1
    changed = bytearray(data)
    for name, value in bytes_at.items():
        changed[start + int(name[2:])] = value
    return bytes(changed)


def outcome(data: bytes, size: int, options: DecodeOptions) -> bytes | tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return decode_image(data, size, size, Resize(), options=options).tobytes()
        except ImageError as error:
            return type(error).__name__, error.detail


def assert_same_outcome(data: bytes, size: int) -> None:
    assert outcome(data, size, DecodeOptions()) == outcome(data, size, PILLOW)


KINDS = [
    dict(progressive=progressive, subsampling=sampling, **more)
    for progressive in (False, True)
    for sampling in (0, 1, 2)
    for more in ({}, {"restart_marker_blocks": 2}, {"optimize": True, "quality": 97})
]


@pytest.mark.parametrize("kind", [*KINDS, "L", "L progressive"], ids=str)
def test_plain_jpegs_take_the_fast_way_to_pillows_pixels(kind):
    for seed, (width, height) in enumerate([(1, 1), (8, 8), (9, 7), (32, 32), (33, 57), (64, 48)]):
        image = picture(width, height, seed)
        if isinstance(kind, str):
            data = jpeg(image.convert("L"), progressive=kind != "L")
        else:
            data = jpeg(image, **kind)
        assert plain_size(data) == (width, height)
        decode = exact_decoder()
        assert decode is not None
        with Image.open(io.BytesIO(data)) as opened:
            assert np.array_equal(decode(data), np.asarray(opened.convert("RGB")))
        for wanted in ((height, width), (5, 6)):
            fast = decode_image(data, *wanted, Resize())
            assert np.array_equal(fast, decode_image(data, *wanted, Resize(), options=PILLOW))


def test_a_colour_profile_and_a_comment_are_plain():
    data = jpeg(picture(9, 7), icc_profile=b"profile" * 99, comment=b"hello")
    assert plain_size(data) == (9, 7)
    assert_same_outcome(data, 7)


def unusual() -> dict[str, bytes]:
    image = picture(16, 16)
    plain = jpeg(image)
    turned = Image.Exif()
    turned[0x0112] = 6
    both = io.BytesIO()
    image.save(both, "MPO", save_all=True, append_images=[picture(16, 16, 1)])
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3"/>'
    return {
        "empty": b"",
        "start only": plain[:2],
        "cut in a segment": plain[:30],
        "no scan": plain[: plain.index(b"\xff\xda")],
        "exif": jpeg(image, exif=turned),
        "xmp": with_segment(plain, 0xE1, xmp),
        "cmyk": jpeg(image.convert("CMYK")),
        "adobe rgb": jpeg(image, keep_rgb=True, subsampling=0),
        "adobe ycck": with_segment(plain, 0xEE, b"Adobe\0\x64\0\0\0\0\2"),
        "two pictures": both.getvalue(),
        "short jfif": with_segment(plain, 0xE0, b"JFIF\0"),
        "short profile": with_segment(plain, 0xE2, b"ICC_PROFILE\0"),
        "flashpix": with_segment(plain, 0xE2, b"FPXR\0" + bytes(20)),
        "stray byte": plain[:2] + b"\0" + plain[2:],
        "fill byte": plain[:2] + b"\xff" + plain[2:],
        "two frames": with_segment(plain, 0xC0, bytes((8, 0, 9, 0, 9, 1, 1, 0x11, 0))),
        "many comments": plain[:2] + b"\xff\xfe\0\2" * 99 + plain[2:],
        "a length of nothing": plain[:2] + b"\xff\xfe\0\0" + plain[2:],
        "lossless": with_frame(plain, at0=0xC3),
        "arithmetic": with_frame(plain, at0=0xC9),
        "12 bits": with_frame(plain, at3=12),
        "no height": with_frame(plain, at4=0, at5=0),
        "no width": with_frame(plain, at6=0, at7=0),
        "two components": with_frame(plain, at8=2),
        "rare sampling": with_frame(plain, at10=0x12),
    }


@pytest.mark.parametrize(("name", "data"), unusual().items(), ids=lambda x: x if x is str else "")
def test_unusual_files_are_left_to_pillow(name, data):
    assert plain_size(data) is None, name
    assert_same_outcome(data, 16)


def test_data_behind_the_picture_changes_nothing():
    data = jpeg(picture(16, 16)) + jpeg(picture(9, 9))
    assert plain_size(data) == (16, 16)
    assert_same_outcome(data, 16)


def bases() -> list[bytes]:
    return [
        jpeg(picture(24, 19)),
        jpeg(picture(24, 19), progressive=True),
        jpeg(picture(17, 24).convert("L"), quality=40),
        jpeg(picture(24, 24), restart_marker_blocks=1, icc_profile=b"0123456789" * 2),
        jpeg(picture(24, 24), subsampling=1, progressive=True, quality=30),
    ]


BASES = bases()


@pytest.mark.parametrize("base", BASES)
def test_every_truncation_ends_as_with_pillow(base):
    for end in range(0, len(base), 5):
        assert_same_outcome(base[:end], 24)
        assert_same_outcome(base[:end] + b"\xff\xd9", 24)


@pytest.mark.parametrize("base", BASES)
def test_flipped_bits_end_as_with_pillow(base, rng):
    fast = 0
    for _ in range(600):
        broken = bytearray(base)
        for place in rng.integers(2, len(base), rng.integers(1, 4)):
            broken[place] ^= 1 << int(rng.integers(8))
        fast += plain_size(bytes(broken)) is not None
        assert_same_outcome(bytes(broken), 24)
    assert fast > 100  # most flips leave the header plain: the comparison is one


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_as_with_pillow(data):
    broken = bytearray(data.draw(st.sampled_from(BASES)))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(broken) - 1))
        broken[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not broken:
            break
    assert_same_outcome(bytes(broken), data.draw(st.sampled_from((24, 10))))


def test_decode_into_fills_its_place_only(rng):
    pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    for data in (*BASES, png.getvalue()):
        batch = np.full((3, 24, 24, 3), 7, np.uint8)
        decode_into(data, batch[1], Resize())
        assert np.array_equal(batch[1], decode_image(data, 24, 24, Resize()))
        assert (batch[[0, 2]] == 7).all()
        sparse = np.zeros((24, 24, 6), np.uint8)[..., ::2]
        decode_into(memoryview(data), sparse, Resize())
        assert np.array_equal(sparse, batch[1])


def test_too_many_pixels_are_refused_from_the_header(monkeypatch):
    def never(*args: object, **named: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(decode_module, "exact_decoder", lambda: never)
    huge = with_frame(BASES[0], at4=0xFF, at5=0xDC, at6=0xFF, at7=0xDC)
    assert plain_size(huge) == (65_500, 65_500)
    with pytest.raises(ImageTooLargeError):
        decode_image(huge, 24, 24, Resize())
    with pytest.raises(ImageTooLargeError, match="24 x 19 = 456 pixels; the limit is 455"):
        decode_image(BASES[0], 19, 24, Resize(), max_pixels=455)


@pytest.fixture
def fresh_choice():
    exact_decoder.cache_clear()
    yield
    exact_decoder.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
def test_without_simplejpeg_pillow_decodes(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert exact_decoder() is None
    assert_same_outcome(BASES[0], 24)


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize("wrong", ["pixels", "shape", "error"])
def test_a_decoder_with_other_pixels_is_not_used(monkeypatch, wrong, caplog):
    right = exact_decoder()
    assert right is not None
    exact_decoder.cache_clear()

    def decode_jpeg(data: bytes) -> np.ndarray:
        if wrong == "error":
            raise RuntimeError
        pixels = right(data)
        pixels[-1, -1, 0] ^= 1
        return pixels if wrong == "pixels" else pixels[1:]

    monkeypatch.setattr("simplejpeg.decode_jpeg", decode_jpeg)
    assert exact_decoder() is None
    assert "differ from Pillow's" in caplog.text


@pytest.mark.parametrize("options", [DecodeOptions(), PILLOW])
def test_served_pixels_are_trained_pixels(options):
    for data in BASES:
        for side in (24, 19, 10):
            served = np.empty((side, side, 3), np.uint8)
            decode_into(data, served, Resize(), options=options)
            assert np.array_equal(served, decode_to_square(data, side, Resize()))


@pytest.mark.data
@pytest.mark.skipif(not REAL_DATA.exists(), reason="needs the real data sets")
def test_real_pictures_are_plain_and_equal():
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(next((REAL_DATA / "cifar10").glob("test-*.parquet")))
    for row in table.column("image").to_pylist()[:2000]:
        assert plain_size(row["bytes"]) == (32, 32)
        assert_same_outcome(row["bytes"], 32)

from __future__ import annotations

import io
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.engine.decode import decode_image, fit_image
from service.engine.errors import ImageDecodeError, ImageError, ImageTooLargeError
from service.metadata import Resize

CROP = Resize()
STRETCH = Resize(rule="stretch")


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data: bytes, size: int = 4, resize: Resize = CROP) -> np.ndarray:
    return decode_image(data, size, size, resize)


def solid(mode: str, color: object) -> Image.Image:
    return Image.new(mode, (4, 4), color)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_very_pixels(format, rng):
    pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert (decode(encode(Image.fromarray(pixels), format)) == pixels).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "AVIF"])
def test_lossy_formats_come_close(format):
    assert np.abs(decode(encode(solid("RGB", (200, 100, 50)), format)) - [200, 100, 50]).max() < 12


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (solid("L", 77), (77, 77, 77)),
        (solid("1", 1), (255, 255, 255)),
        (solid("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (solid("RGBA", (10, 20, 30, 0)), (255, 255, 255)),
        (solid("LA", (40, 255)), (40, 40, 40)),
        (solid("LA", (40, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)), (128, 128, 128)),
    ],
)
def test_png_modes(image, expected):
    assert (decode(encode(image, "PNG")) == expected).all()


def test_half_transparent_is_composited_on_white():
    pixels = decode(encode(solid("RGBA", (0, 0, 0, 128)), "PNG"))
    assert np.abs(pixels.astype(int) - 127).max() <= 1


def test_palette_with_transparency():
    image = solid("P", 0)
    image.putpalette([9, 8, 7, 1, 2, 3])
    assert (decode(encode(image, "PNG")) == (9, 8, 7)).all()
    assert (decode(encode(image, "PNG", transparency=0)) == (255, 255, 255)).all()


def test_rgb_with_a_transparent_color():
    image = solid("RGB", (1, 2, 3))
    assert (decode(encode(image, "PNG", transparency=(1, 2, 3))) == (255, 255, 255)).all()


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format):
    pixels = decode(encode(solid("CMYK", (0, 255, 255, 0)), format))
    assert pixels[..., 0].min() > 200
    assert pixels[..., 1:].max() < 60


def test_16_bit_tiff_and_float_tiff():
    deep = Image.fromarray(np.full((4, 4), 40000, np.uint16))
    assert (decode(encode(deep, "TIFF")) == round(40000 / 257)).all()
    assert (decode(encode(solid("F", 0.5), "TIFF")) == 128).all()


def test_16_bit_tiff_in_which_white_is_zero():
    deep = Image.fromarray(np.full((4, 4), 40000, np.uint16))
    data = encode(deep, "TIFF", tiffinfo={262: 0})
    assert (decode(data) == round((65535 - 40000) / 257)).all()


def test_16_bit_png_with_a_transparent_level():
    deep = Image.fromarray(np.array([[40000, 257 * 9]], np.uint16))
    data = encode(deep, "PNG", transparency=40000)
    assert decode_image(data, 1, 2, CROP)[0, :, 0].tolist() == [255, 9]


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (4, 4), (0, 0, 0))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: top left goes to top right
    pixels = decode(encode(image, "PNG", exif=exif))
    assert (pixels[0, 3] == 255).all()
    assert pixels.sum() == 3 * 255


def test_animation_gives_its_first_frame():
    frames = [solid("RGB", color) for color in ((255, 0, 0), (0, 255, 0))]
    for format in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        assert (decode(data)[..., 0] > 250).all()


def test_center_crop_and_stretch():
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    data = encode(Image.fromarray(wide), "PNG")
    assert (decode(data) == 200).all()
    assert decode(data, resize=STRETCH).min() == 0


def test_fit_image_gives_the_same_pixels_as_decoding(rng):
    for shape in ((9, 7), (4, 4), (2, 30)):
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        decoded = decode(encode(Image.fromarray(pixels), "PNG"))
        assert (fit_image(pixels, 4, 4, CROP) == decoded).all()


@pytest.mark.parametrize(("network", "sides"), [(28, range(1, 300)), (299, range(250, 350))])
def test_every_size_of_picture_can_be_cropped(network, sides):
    # Of some sizes the crop, as computed, begins a trillionth of a pixel outside of the picture.
    for side in sides:
        for shape in ((side, side + 40), (side + 40, side)):
            fitted = fit_image(np.full((*shape, 3), 7, np.uint8), network, network, CROP)
            assert fitted.shape == (network, network, 3)
            assert (fitted == 7).all()


def test_extreme_shapes_need_no_memory():
    strip = encode(Image.new("L", (60_000, 1), 9), "PNG")
    assert (decode(strip, size=32) == 9).all()


def test_large_16_bit_pictures_take_no_more_memory_than_others():
    data = encode(Image.fromarray(np.full((3000, 3000), 257 * 9, np.uint16)), "PNG")
    tracemalloc.start()
    assert (decode(data, size=32) == 9).all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 3000 * 3000  # samples, their bytes, a block of floats: not eight bytes each


def test_too_many_pixels_are_refused_before_decoding():
    data = bytearray(encode(solid("RGB", 0), "PNG"))
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(ImageTooLargeError, match="pixels"):
        decode(bytes(data))
    with pytest.raises(ImageTooLargeError, match="16 pixels; the limit is 15"):
        decode_image(encode(solid("RGB", 0), "PNG"), 4, 4, CROP, max_pixels=15)


def test_truncated_and_foreign_bytes_name_the_formats():
    whole = encode(Image.effect_noise((64, 64), 50), "JPEG")
    for data in (b"", b"GIF89a", b"%PDF-1.7", whole[: len(whole) // 2]):
        with pytest.raises(ImageDecodeError) as caught:
            decode(data)
        assert "JPEG" in caught.value.hint


def test_formats_outside_the_list_are_not_tried():
    with pytest.raises(ImageDecodeError):
        decode(encode(solid("RGB", 0), "EPS"))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes_decode_or_raise_an_image_error(data):
    picture = Image.fromarray(np.arange(243, dtype=np.uint8).reshape(9, 9, 3))
    format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]))
    broken = bytearray(encode(picture, format))
    for _ in range(data.draw(st.integers(0, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    del broken[data.draw(st.integers(0, len(broken))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pixels = decode(bytes(broken))
        except ImageError:
            return
    assert pixels.shape == (4, 4, 3)
    assert pixels.dtype == np.uint8


def test_a_crop_keeps_the_middle_of_the_largest_part(rng):
    picture = Image.fromarray(rng.integers(0, 256, (64, 100, 3), dtype=np.uint8))
    kept = picture.resize((32, 32), Image.Resampling.BILINEAR, box=(26.0, 8.0, 74.0, 56.0))
    got = fit_image(np.asarray(picture), 32, 32, Resize(crop=0.75))
    assert np.array_equal(got, np.asarray(kept))
    whole = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(fit_image(whole, 32, 32, Resize(crop=0.75)), whole)

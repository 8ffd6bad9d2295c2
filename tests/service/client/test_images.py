"""Images in every form become files and pixels that the service reads alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from service.client.errors import ImageError
from service.client.groups import Grouper
from service.client.images import Entry, Pixels, load_content, load_entry, write_npy
from service.engine.decode import decode_image
from service.metadata import Resize


@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (3, 4, 4), (1, 1, 1, 3), (200, 16, 16, 3)])
def test_arrays_are_written_as_numpy_writes_them(shape, rng):
    stack = rng.integers(0, 256, shape, dtype=np.uint8)
    pixels = [load_content(image) for image in stack]
    assert all(isinstance(each, Pixels) for each in pixels)
    written = write_npy(pixels)  # type: ignore[arg-type]
    assert np.array_equal(np.load(io.BytesIO(written)), stack)
    buffer = io.BytesIO()
    np.save(buffer, stack)
    assert len(written) == len(buffer.getvalue())


def test_arrays_in_any_layout(rng):
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for view in (np.asfortranarray(image), image[::-1, ::2], image.transpose(1, 0, 2)):
        assert load_content(view) == Pixels(view.shape, np.ascontiguousarray(view).tobytes())
    assert load_content(image[..., :1]) == load_content(image[..., 0])
    thin = image[:, :3, 0]
    assert load_content(thin) == load_content(np.repeat(thin[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 3)), "float64.*astype"),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\].*\[H, W, 3\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), "classify_many"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (b"\x93NUMPY...", "numpy.load"),
        (io.StringIO("text"), "'rb'"),
        (None, "NoneType.*path"),
        ([1, 2], "list"),
        (Image.new("RGB", (0, 5)), "0 x 5"),
    ],
)
def test_what_is_no_image_says_what_is_one(image, words):
    entry = load_entry(image, 5)
    assert isinstance(entry.content, ImageError)
    assert entry.content.code == "unsupported_image"
    assert entry.content.index == 5
    with pytest.raises(ImageError, match=words):
        raise entry.content


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "I;16", "I", "F", "CMYK"])
def test_a_picture_is_read_as_its_file_is(mode, rng):
    source = Image.fromarray(rng.integers(0, 256, (12, 9, 4), dtype=np.uint8), "RGBA")
    source = source.filter(ImageFilter.SMOOTH)
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 2**16, (12, 9), dtype=np.uint16))
    elif mode in ("I", "F"):  # 16 bits and fractions
        values = rng.integers(0, 2**16, (12, 9)) if mode == "I" else rng.random((12, 9)) * 255
        picture = Image.fromarray(values.astype("int32" if mode == "I" else "float32"))
    elif mode in ("RGBA", "LA"):
        picture = source.convert(mode)
    else:
        picture = source.convert("RGB").convert(mode)
    assert picture.mode == mode
    file = io.BytesIO()
    picture.save(file, "TIFF" if mode in ("CMYK", "F", "I") else "PNG")
    sent = load_content(picture)
    assert isinstance(sent, bytes)
    assert np.array_equal(pixels(sent), pixels(file.getvalue()))


def test_a_picture_is_turned_as_its_file_says(rng):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(file, "PNG", exif=exif)
    sent = load_content(Image.open(io.BytesIO(file.getvalue())))
    assert isinstance(sent, bytes)
    assert np.array_equal(pixels(sent), pixels(file.getvalue()))


def test_a_picture_does_not_take_on_the_loss_of_its_file(rng):
    file = io.BytesIO()
    pixels_of_it = rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    Image.frombytes("CMYK", (16, 16), pixels_of_it.tobytes()).save(
        file, "TIFF", compression="jpeg", quality=40
    )
    sent = load_content(Image.open(io.BytesIO(file.getvalue())))
    assert isinstance(sent, bytes)
    assert np.array_equal(pixels(sent), pixels(file.getvalue()))


def test_a_truncated_picture_can_not_be_read(rng):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    broken = Image.open(io.BytesIO(file.getvalue()[:2000]))
    entry = load_entry(broken, 0)
    assert isinstance(entry.content, ImageError)
    assert entry.content.code == "unreadable_file"


def pixels(file: bytes) -> np.ndarray:
    return decode_image(file, 10, 10, Resize())


def entries(*contents: bytes | Pixels | ImageError) -> list[Entry]:
    return [Entry(index, None, content) for index, content in enumerate(contents)]


def groups(grouper: Grouper, found: list[Entry]) -> list[list[int]]:
    complete = [group for entry in found for group in grouper.add(entry)]
    complete.append(grouper.rest())
    return [[entry.index for entry in group] for group in complete if group]


def test_groups_have_so_many_images():
    assert groups(Grouper(2), entries(b"a", b"b", b"c")) == [[0, 1], [2]]
    assert groups(Grouper(1), entries(b"a", Pixels((1, 1), b"x"), b"c")) == [[0], [1], [2]]


def test_groups_have_so_many_bytes():
    assert groups(Grouper(9, 10), entries(b"x" * 6, b"x" * 4, b"x", b"x" * 99, b"x")) == [
        [0, 1], [2], [3], [4],
    ]  # fmt: skip


def test_groups_are_of_one_kind_and_errors_go_with_any():
    wide, tall = Pixels((1, 2, 3), b"123456"), Pixels((2, 1, 3), b"123456")
    found = entries(wide, wide, tall, b"a", ImageError("bad"), b"b", wide)
    assert groups(Grouper(9), found) == [[0, 1], [2], [3, 4, 5], [6]]
    assert groups(Grouper(2), entries(*[ImageError("bad")] * 3)) == [[0, 1], [2]]

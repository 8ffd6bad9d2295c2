from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.engine import decode as decode_module
from service.engine.decode import DecodeOptions, decode_image
from service.engine.reduction import reduction_of
from service.metadata import Resize
from tests.service.engine.test_jpeg import jpeg, picture

DRAFT = DecodeOptions(jpeg_draft=True)


@pytest.mark.parametrize(
    ("picture_size", "network", "resize", "by"),
    [
        ((64, 64), (32, 32), Resize(), 1),
        ((127, 300), (32, 32), Resize(), 1),
        ((128, 300), (32, 32), Resize(), 2),
        ((500, 375), (32, 32), Resize(), 4),
        ((4000, 3000), (224, 224), Resize(), 4),
        ((4000, 3000), (32, 32), Resize(), 8),
        ((128, 128), (32, 32), Resize(crop=0.9), 1),
        ((128, 128), (32, 32), Resize(rule="stretch", crop=0.9), 2),
        ((512, 512), (64, 32), Resize(), 4),
        ((3, 3), (1, 1), Resize(), 1),
    ],
)
def test_reductions_leave_twice_the_networks_size(picture_size, network, resize, by):
    assert reduction_of(picture_size, network, resize) == by
    assert reduction_of(picture_size[::-1], network[::-1], resize) == by


@pytest.fixture
def sizes(monkeypatch) -> list[tuple[int, int]]:
    """Sizes of the images that are resized."""
    seen = []
    fitted = decode_module._fitted

    def watched(image: Image.Image, *rest: object) -> Image.Image:
        seen.append(image.size)
        return fitted(image, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(decode_module, "_fitted", watched)
    return seen


def blotches(width: int, height: int) -> Image.Image:
    return picture(70, 53).resize((width, height), Image.Resampling.BICUBIC)


def draft_and_full(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    draft = decode_image(data, 32, 32, Resize(), options=DRAFT)
    return draft.astype(int), decode_image(data, 32, 32, Resize()).astype(int)


@pytest.mark.parametrize("width", [704, 701, 697])
def test_draft_reduces_large_jpegs_and_moves_nothing(sizes, width):
    draft, full = draft_and_full(jpeg(blotches(width, 530), quality=95))
    assert sizes == [(88, 67), (width, 530)]
    assert 0 < np.abs(draft - full).mean() < 2.5
    # Moved by half a pixel in either direction, it would fit worse.
    for axis in (0, 1):
        half = (draft + np.roll(draft, 1, axis)) / 2
        assert np.abs(draft - full).mean() < np.abs(half - full)[1:, 1:].mean()


@pytest.mark.parametrize("orientation", range(1, 10))
def test_draft_moves_no_turned_picture(sizes, orientation):
    turned = Image.Exif()
    turned[0x0112] = orientation
    draft, full = draft_and_full(jpeg(blotches(702, 532), quality=95, exif=turned))
    reduced = (88, 67) if orientation == 1 else (351, 266)
    assert sizes[0] in (reduced, reduced[::-1])
    assert np.abs(draft - full).mean() < 2.5


def test_draft_with_a_broken_exif_block(sizes):
    data = jpeg(blotches(701, 530), exif=b"Exif\0\0broken, and no TIFF header")
    draft, full = draft_and_full(data)
    assert sizes[0] == (88, 67)
    assert np.abs(draft - full).mean() < 2.5


def test_draft_gives_the_same_pixels_whichever_decoder_is_there():
    pillow = DecodeOptions(decoder="pillow", jpeg_draft=True)
    for side in (24, 128, 200, 256):
        data = jpeg(picture(side, side))
        assert np.array_equal(
            decode_image(data, 24, 24, Resize(), options=DRAFT),
            decode_image(data, 24, 24, Resize(), options=pillow),
        )


def test_draft_leaves_other_formats_alone(sizes):
    png = io.BytesIO()
    blotches(701, 530).save(png, "PNG")
    draft, full = draft_and_full(png.getvalue())
    assert np.array_equal(draft, full)
    assert sizes == [(701, 530)] * 2

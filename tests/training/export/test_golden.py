"""The drawn pictures: what they cover, how large they are, and that they know their labels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from pydantic import ValidationError

from service.engine.decode import decode_image
from service.metadata import ModelMetadata, Resize
from training.export.golden import draw_golden_images


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_the_same_on_every_call_and_small():
    assert draw_golden_images(32, 32) == draw_golden_images(32, 32)
    for side, limit in ((32, 25_000), (224, 300_000)):
        assert sum(len(data) for _, data in draw_golden_images(side, side)) < limit


def test_every_mode_that_clients_send():
    pictures = [(kind, opened(data)) for kind, data in draw_golden_images(32, 32)]
    assert {(kind.removeprefix("image/"), picture.mode) for kind, picture in pictures} == {
        ("png", "RGB"),
        ("png", "L"),
        ("png", "P"),
        ("png", "RGBA"),
        ("png", "I;16"),
        ("png", "1"),
        ("jpeg", "RGB"),
        ("jpeg", "L"),
        ("jpeg", "CMYK"),
    }
    sampling = {
        JpegImagePlugin.get_sampling(picture)
        for _, picture in pictures
        if isinstance(picture, JpegImagePlugin.JpegImageFile) and picture.mode == "RGB"
    }
    assert sampling == {0, 2}  # 4:4:4 and 4:2:0
    assert [picture.getexif().get(0x0112) for _, picture in pictures].count(6) == 1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 48)])
def test_smaller_and_larger_wider_and_taller_than_the_input(height, width):
    sizes = [opened(data).size for _, data in draw_golden_images(height, width)]
    assert (width, height) in sizes
    assert any(w < width and h < height for w, h in sizes)
    assert any(w > 2 * width and h > height for w, h in sizes)
    assert any(w / h > 1.2 * width / height for w, h in sizes)
    assert any(w / h < 0.8 * width / height for w, h in sizes)


def test_every_picture_decodes_to_another_one():
    decoded = [decode_image(data, 16, 16, Resize()) for _, data in draw_golden_images(16, 16)]
    for index, one in enumerate(decoded):
        for other in decoded[index + 1 :]:
            assert np.abs(one.astype(int) - other.astype(int)).mean() > 2


@pytest.mark.parametrize("resize", [Resize(rule="stretch"), Resize(filter="nearest")])
def test_another_resize_shows(resize):
    changed = [
        np.abs(
            decode_image(data, 16, 16, Resize()).astype(int)
            - decode_image(data, 16, 16, resize).astype(int)
        ).mean()
        for _, data in draw_golden_images(16, 16)
    ]
    assert sum(change > 1 for change in changed) >= 6


def test_an_export_carries_them_with_pytorchs_first_class(exported):
    metadata = exported.result.metadata
    assert len(metadata.golden.images) == 12
    for image in metadata.golden.images:
        assert image.label == metadata.labels[int(np.argmax(image.logits))]


def test_reordered_labels_are_no_valid_metadata(exported):
    told = exported.result.metadata.model_dump(mode="json")
    assert ModelMetadata.model_validate(told) == exported.result.metadata
    with pytest.raises(ValidationError, match="changed or reordered"):
        ModelMetadata.model_validate(told | {"labels": told["labels"][::-1]})

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.engine.jpeg import plain_size
from service.loadtest.pictures import draw_pictures, read_pictures


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70))
def test_drawn_pictures_are_plain_jpegs_that_differ(height, width):
    pictures = list(draw_pictures(height, width).values())
    assert len(set(pictures)) == len(pictures) >= 4
    assert pictures == list(draw_pictures(height, width).values())
    for data in pictures:
        assert plain_size(data) == (width, height)
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (width, height))
            picture.load()  # to the end: Pillow refuses a file that is cut short


def test_drawn_pictures_are_neither_flat_nor_noise():
    for data in draw_pictures(64, 64).values():
        with Image.open(io.BytesIO(data)) as picture:
            grey = np.asarray(picture.convert("L")).astype(float)
        assert 5 < grey.std() < 90
        assert 40 < grey.mean() < 215
        neighbours = np.corrcoef(grey[:, :-1].ravel(), grey[:, 1:].ravel())[0, 1]
        assert neighbours > 0.7


def test_very_large_ones_are_not_drawn():
    with pytest.raises(ValueError, match="5000 x 10 px"):
        draw_pictures(10, 5000)


def test_own_pictures_are_sent_as_they_are(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"whatever")
    assert read_pictures(tmp_path) == {str(tmp_path / "a.jpg"): b"whatever"}

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.engine.preprocess import Preprocessing, pixel_table

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def images(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("datatype", ["float16", "float32", "float64"])
def test_channels_first_is_the_formula_rounded_once(images, datatype):
    made = Preprocessing("NCHW", "rgb", pixel_table(datatype, 1.0, MEAN, STD))(images)
    exact = (images / 255 - np.array(MEAN)) / np.array(STD)
    assert made.dtype == np.dtype(datatype)
    assert made.flags.c_contiguous
    assert np.array_equal(made, exact.transpose(0, 3, 1, 2).astype(datatype))


def test_channels_last_in_blue_green_red_with_plain_pixels(images):
    made = Preprocessing("NHWC", "bgr", pixel_table("float32", 255, [0] * 3, [1] * 3))(images)
    assert np.array_equal(made, images[..., ::-1])


def test_uint8_is_the_picture_itself(images):
    made = Preprocessing("NHWC", "rgb", pixel_table("uint8", 255, [0] * 3, [1] * 3))(images)
    assert made.dtype == np.uint8
    assert np.array_equal(made, images)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grey_is_what_pillow_makes_of_it(images, layout):
    made = Preprocessing(layout, "grey", pixel_table("uint8", 255, [0], [1]))(images)
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    assert np.array_equal(made.squeeze(1 if layout == "NCHW" else 3), pillow)


def test_a_grey_picture_keeps_its_greys():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    made = Preprocessing("NCHW", "grey", pixel_table("uint8", 255, [0], [1]))(ramp)
    assert np.array_equal(made.ravel(), np.arange(256))

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.model_config import ModelConfig, parse_config

WHOLE = """
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
description = "Cats and dogs"
labels = ["cat", "dog"]
[input]
name = "x"
datatype = "float32"
layout = "NCHW"
height = 224
width = 224
batch_size = 1
[input.resize]
rule = "center_crop"
filter = "bicubic"
crop = 0.875
[normalization]
color = "bgr"
pixel_max = 255
mean = [1, 2.5, 3]
std = [1, 1, 1]
[output]
name = "y"
kind = "logits"
"""


def test_a_whole_file():
    config = parse_config(WHOLE)
    assert config.input is not None
    assert config.input.resize.crop == 0.875
    assert config.normalization is not None
    assert config.normalization.mean == [1.0, 2.5, 3.0]
    assert parse_config("") == ModelConfig()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x =", "this is no TOML: Invalid value (at end of document)."),
        (
            "classes = []",
            "classes is no field; the top of the file takes sha256, description, labels, input,"
            " normalization, output.",
        ),
        ("[output]\n", "output.kind is missing; [output] takes name, kind."),
        (
            "[input.resize]\nruel = 'stretch'",
            "input.resize.ruel is no field; [input.resize] takes rule, filter, crop.",
        ),
        (
            "[input]\nlayout = 'CHW'",
            "input.layout is 'CHW', but it should be 'NCHW' or 'NHWC'.",
        ),
        (
            "[input]\nheight = 0",
            "input.height is 0, but it should be greater than or equal to 1.",
        ),
        (
            "[input]\nheight = '224'",
            "input.height is '224', but it should be a valid integer.",
        ),
        (
            "[normalization]\nstd = [1.0, 0.0]",
            "normalization.std.1 is 0.0, but it should be greater than 0.",
        ),
        (
            "[normalization]\nmean = [nan]",
            "normalization.mean.0 is nan, but it should be a finite number.",
        ),
        ("labels = []", "labels is empty; leave it out to number the classes."),
        ("labels = 5", "labels is 5, but it should be a valid list."),
        ("input = 5", "input is 5, but it should be a table."),
        ("x = " + "[" * 5000, "its values are nested too deeply."),
    ],
)
def test_what_is_wrong_is_one_sentence_with_field_value_and_what_would_be_right(text, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        parse_config(text)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ValueError):
        parse_config(text)

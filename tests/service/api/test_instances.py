"""Instances of a V1 request, without a server."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.instances import parse_instances
from service.api.limits import BodyLimits
from service.engine.errors import (
    EmptyRequestError,
    ImageDecodeError,
    ImageError,
    ImageTooLargeError,
    MalformedRequestError,
    RequestTooLargeError,
    ServiceError,
)

LIMITS = BodyLimits(images=5, image_pixels=100, part_bytes=2**20)


def parse(*instances: Any) -> list[Any]:
    return list(parse_instances(json.dumps({"instances": instances}).encode(), LIMITS))


def refusal(instance: Any) -> ImageError:
    good, found = parse([[0]], instance)
    assert isinstance(good, np.ndarray)
    assert isinstance(found, ImageError)
    assert "instances[1]" in found.detail
    assert found.hint
    return found


def test_base64_in_its_forms():
    text = base64.b64encode(b"picture").decode()
    instances = {"b64": text}, {"image_bytes": {"b64": text}}, {"image": {"b64": text}}
    assert parse(*instances, {"b64": f"data:image/png;base64,{text}"}) == [b"picture"] * 4


@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 2**32 - 1))
def test_pixels_come_out_as_they_went_in(height, width, grey, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
    (found,) = parse(pixels.tolist())
    assert found.dtype == np.uint8
    assert found.shape == (height, width, 3)
    assert np.array_equal(found, np.stack([pixels] * 3, axis=2) if grey else pixels)


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        (7, "is the number 7"),
        (None, "is null"),
        (True, "is true"),
        ("aGVsbG8=", "is the text 'aGVsbG8='"),
        ({}, "is an object with nothing in it"),
        ({"b64": "eA==", "key": "1"}, "is an object with b64, key"),
        ({"image": {"b64": "eA=="}, "key": "1"}, "is an object with image, key"),
        ({"image": "eA=="}, "is an object"),
        ({"image": {"x": {"b64": "eA=="}}}, "is an object with x"),
        ({"b64": 7}, "has the number 7 as 'b64'"),
        ({"b64": ["eA=="]}, "has a list as 'b64'"),
        ([], "is empty, of shape [0]"),
        ([[]], "is empty, of shape [1, 0]"),
        ([[[]]], "is empty, of shape [1, 1, 0]"),
        ([1, 2, 3], "has shape [3]"),
        ([[[1, 2]]], "has shape [1, 1, 2]"),
        ([[[1, 2, 3, 4]]], "has shape [1, 1, 4]"),
        ([[[[1, 2, 3]]]], "is nested more than three deep"),
        ([[1, 2], [3]], "has lists of 1 and of 2 at depth 1"),
        ([[[1, 2, 3], [1, 2]]], "has lists of 2 and of 3 at depth 2"),
        ([[1, 2], 3], "has a list among its numbers"),
        ([[[1, 2, 3], 4]], "has a list among its numbers"),
        ([[1, "2"]], "has the text '2' among its numbers"),
        ([[1, None]], "has null among its numbers"),
        ([[1, True]], "has true among its numbers"),
        ([[False]], "has false among its numbers"),
        ([[{}]], "has an object among its numbers"),
        ([[1.0]], "has the number 1.0 among its numbers"),
        ([[256]], "has the number 256"),
        ([[-1]], "has the number -1"),
        ([[2**63]], "has the number 9223372036854775808"),
        ([[10**30]], "has the number 1e+30 among its numbers"),
    ],
)
def test_what_is_no_image_is_named(instance, words):
    assert words in refusal(instance).detail


@pytest.mark.parametrize("text", ["%%%", "eA", "eA=", "eA===", "e\u00e9==", "eA==eA==", "data:,x"])
def test_base64_must_be_exact(text):
    assert isinstance(refusal({"b64": text}), ImageDecodeError)


def test_a_picture_over_the_limit():
    assert isinstance(refusal([[0] * 101]), ImageTooLargeError)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"instances": {}}',
        b'{"instances": null}',
        b'{"instances": "x"}',
        b'{"instances": [[[NaN]]]}',
        b'{"instances": [[[1]]]} {}',
        b"[" * 100_000,
        b'{"instances": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_request_of_this_kind(body):
    with pytest.raises(MalformedRequestError) as caught:
        parse_instances(body, LIMITS)
    assert '{"instances": [...]}' in caught.value.hint


def test_the_columnar_form_is_refused_by_name():
    for document in ({"inputs": [[1]]}, {"inputs": {"x": []}, "instances": [[[1]]]}):
        with pytest.raises(MalformedRequestError, match="columnar"):
            parse_instances(json.dumps(document).encode(), LIMITS)


def test_what_tensorflow_servings_clients_add_does_no_harm():
    body = json.dumps({"signature_name": "serving_default", "instances": [[[1]]]}).encode()
    assert len(parse_instances(body, LIMITS)) == 1


@pytest.mark.parametrize("body", [b"", b'{"instances": []}'])
def test_nothing_at_all(body):
    with pytest.raises(EmptyRequestError):
        parse_instances(body, LIMITS)


def test_too_much():
    with pytest.raises(RequestTooLargeError, match="6 images"):
        parse(*[[[0]]] * 6)
    for values in (b"0," * 8_000_001, b"[]," * 4_000_001, b"{}," * 2_000_001):
        with pytest.raises(RequestTooLargeError, match="numbers and lists"):
            parse_instances(b'{"instances": [[' + values, LIMITS)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 300) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["b64", "image", "instances", "inputs"]), inner)
    ),
)


@given(_JSON)
def test_whatever_comes_is_read_or_refused(document):
    for value in (document, {"instances": document}, {"instances": [document]}):
        try:
            found = parse_instances(json.dumps(value).encode(), LIMITS)
        except ServiceError:
            continue
        assert len(found) == len(value["instances"])

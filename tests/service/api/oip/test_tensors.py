"""The tensor codec: what one side writes, the other reads; all else is refused with a reason."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.api.limits import BodyLimits
from service.api.oip.document import parse_object
from service.api.oip.tensors import Tensor, images_of, raw_image, read_tensors
from service.engine.errors import InputError, InvalidTensorError, RequestTooLargeError
from service.metadata import Input

LIMITS = BodyLimits(images=50, image_pixels=10_000, part_bytes=2**20)
SIZE = Input(height=3, width=2)

PIXELS = npst.arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(3), st.just(2), st.just(3)))
ELEMENTS = st.lists(st.binary(max_size=40), min_size=1, max_size=5)


def tensor(array: np.ndarray, **changes: Any) -> dict[str, Any]:
    made = {"name": "images", "shape": list(array.shape), "datatype": "UINT8"}
    return {**made, **changes}


def images(inputs: list[dict[str, Any]], binary: bytes = b"") -> Any:
    # As it comes over the wire: what JSON can't say must not get here.
    document = parse_object(json.dumps({"inputs": inputs}).encode())
    (one,) = read_tensors(document["inputs"], memoryview(binary))
    return images_of(one, SIZE, LIMITS)


@given(PIXELS)
def test_pixels_come_back_whichever_way_they_were_sent(pixels):
    raw = pixels.tobytes()
    for found in (
        images([tensor(pixels, data=pixels.ravel().tolist())]),
        images([tensor(pixels, data=pixels.tolist())]),
        images([tensor(pixels, parameters={"binary_data_size": len(raw)})], raw),
    ):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(raw_image(memoryview(raw[:18]), "images", SIZE), pixels[:1])


@given(PIXELS)
def test_binary_pixels_are_not_copied(pixels):
    raw = memoryview(pixels.tobytes())
    (one,) = read_tensors([tensor(pixels, parameters={"binary_data_size": len(raw)})], raw)
    found = images_of(one, SIZE, LIMITS)
    assert np.shares_memory(found, np.frombuffer(raw, np.uint8))


@given(ELEMENTS)
def test_files_come_back_whichever_way_they_were_sent(elements):
    given = {"name": "images", "datatype": "BYTES", "shape": [len(elements)]}
    column = {**given, "shape": [len(elements), 1]}
    texts = [base64.b64encode(element).decode() for element in elements]
    blob = b"".join(len(one).to_bytes(4, "little") + one for one in elements)
    binary = {"parameters": {"binary_data_size": len(blob)}}
    for found in (
        images([{**given, "data": texts}]),
        images([{**column, "data": texts}]),
        images([{**column, "data": [[text] for text in texts]}]),
        images([{**given, **binary}], blob),
        images([{**column, **binary}], blob),
    ):
        assert list(found) == elements


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)
_SIZES = st.sampled_from([0, 1, 2, 3, 18, 36, -1, 2**70, 1.0, True, "1"])
_INPUT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("images") | _JSON,
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32", "FP16"]) | _JSON,
        "shape": st.lists(_SIZES, max_size=5) | st.just([1, 3, 2, 3]) | _JSON,
        "data": st.lists(_SCALARS, max_size=20) | st.just([1] * 18) | _JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": _SIZES}) | _JSON,
    },
)  # fmt: skip


@given(st.lists(_INPUT, max_size=3) | _JSON, st.binary(max_size=40))
def test_any_request_is_read_or_refused_with_a_reason(inputs, binary):
    text = json.dumps({"inputs": inputs}).encode()
    try:
        found = read_tensors(parse_object(text)["inputs"], memoryview(binary))
        for one in found:
            images_of(one, SIZE, LIMITS)
    except InputError as error:
        refused = error
    else:
        return
    assert refused.detail
    assert refused.hint
    assert len(refused.detail) < 1000


@given(st.data(), ELEMENTS)
def test_a_damaged_bytes_tensor_never_gives_other_elements_than_were_sent(data, elements):
    blob = b"".join(len(one).to_bytes(4, "little") + one for one in elements)
    end = data.draw(st.integers(0, len(blob) - 1))
    cut = Tensor("images", "BYTES", (len(elements),), memoryview(blob)[:end])
    with pytest.raises(InvalidTensorError):
        images_of(cut, SIZE, LIMITS)
    longer = Tensor("images", "BYTES", (len(elements),), memoryview(blob + b"\0" * 4))
    with pytest.raises(InvalidTensorError, match="more"):
        images_of(longer, SIZE, LIMITS)


def test_several_tensors_take_their_bytes_in_order():
    first = {"name": "a", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    middle = {"name": "b", "shape": [1, 2], "datatype": "INT64", "data": [[1, 2]]}
    last = {"name": "c", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}}
    found = read_tensors([first, middle, last], memoryview(b"aaaabbbbccc"))
    assert [one.name for one in found] == ["a", "b", "c"]
    assert [one.data for one in found] == [b"aaaabbbb", [[1, 2]], b"ccc"]
    for wrong in (b"aaaabbbbcc", b"aaaabbbbcccc", b""):
        with pytest.raises(InputError, match="binary data"):
            read_tensors([first, middle, last], memoryview(wrong))


@pytest.mark.parametrize(
    ("datatype", "item_bytes"),
    [("BOOL", 1), ("UINT8", 1), ("INT8", 1), ("UINT16", 2), ("INT16", 2), ("FP16", 2), ("BF16", 2),
     ("UINT32", 4), ("INT32", 4), ("FP32", 4), ("UINT64", 8), ("INT64", 8), ("FP64", 8)],
)  # fmt: skip
def test_the_size_of_every_datatype(datatype, item_bytes):
    shape = [2, 3]
    size = math.prod(shape) * item_bytes
    for stated, right in ((size, True), (size - 1, False), (size + 1, False)):
        given = {
            "name": "x",
            "shape": shape,
            "datatype": datatype,
            "parameters": {"binary_data_size": stated},
        }
        if right:
            (one,) = read_tensors([given], memoryview(bytes(stated)))
            assert len(one.data) == size
        else:
            with pytest.raises(InvalidTensorError, match=str(size)):
                read_tensors([given], memoryview(bytes(stated)))


def test_the_number_of_images_is_limited_before_anything_is_made_of_them():
    with pytest.raises(RequestTooLargeError, match="51 images"):
        images_of(Tensor("images", "UINT8", (51, 3, 2, 3), []), SIZE, LIMITS)
    with pytest.raises(RequestTooLargeError):
        images_of(Tensor("images", "BYTES", (2**62,), memoryview(b"")), SIZE, LIMITS)


def test_long_data_is_converted_bit_by_bit_and_the_odd_one_is_named():
    size = Input(height=100, width=100)
    data: list[Any] = [7] * 90_000
    shape = (3, 100, 100, 3)
    found = images_of(Tensor("images", "UINT8", shape, data), size, LIMITS)
    assert np.asarray(found).shape == shape
    data[80_000] = 256
    with pytest.raises(InvalidTensorError, match=r"Element 80000 .* is 256"):
        images_of(Tensor("images", "UINT8", shape, data), size, LIMITS)
    nested = np.full(shape, 7).tolist()
    nested[2][66][66][2] = True
    with pytest.raises(InvalidTensorError, match=r"Element 80000 .* is True"):
        images_of(Tensor("images", "UINT8", shape, nested), size, LIMITS)

"""What a request asks for, and how its reply is written."""

from __future__ import annotations

import contextlib
import gc
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.api.large_json import read_uncollected
from service.api.limits import BodyLimits
from service.api.oip.body import Body, split
from service.api.oip.inference import (
    OUTPUTS,
    Inference,
    WantedOutput,
    best_classes,
    read_inference,
    write_reply,
)
from service.engine.errors import InputError
from service.engine.session import Prediction
from service.metadata import Input

LIMITS = BodyLimits(images=50, image_pixels=10_000, part_bytes=2**20)
SIZE = Input(height=1, width=1)
LABELS = ["cat", "a:b", "é", ""]
ONE = np.zeros((1, 1, 1, 3), np.uint8)

SCORES = npst.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.just(4)), elements=st.floats(width=32)
)


@given(SCORES, st.booleans(), st.booleans(), st.text() | st.none())
def test_a_reply_says_what_was_given(scores, first, second, identity):
    wanted = (WantedOutput("probabilities", first), WantedOutput("logits", second))
    reply, json_bytes = write_reply(
        ("m", 3), Inference(identity, ONE, wanted), Prediction(scores, scores), LABELS
    )
    assert (json_bytes is not None) is (first or second)
    document = json.loads(reply[:json_bytes])
    rest = reply[json_bytes:] if json_bytes is not None else b""
    assert (document["model_name"], document["model_version"]) == ("m", "3")
    assert document.get("id") == identity
    for asked, output in zip(wanted, document["outputs"], strict=True):
        assert output["name"] == asked.name
        assert (output["datatype"], output["shape"]) == ("FP32", list(scores.shape))
        if asked.binary:
            size = output["parameters"]["binary_data_size"]
            assert rest[:size] == scores.tobytes()  # every bit, also of what is no number
            rest = rest[size:]
        else:
            values = np.array(output["data"], np.float32)
            finite = np.isfinite(scores.ravel())
            np.testing.assert_array_equal(values[finite], scores.ravel()[finite])
            assert all(
                value is None
                for value, good in zip(output["data"], finite, strict=True)
                if not good
            )
    assert not rest


@given(SCORES, st.integers(1, 6))
def test_the_best_classes_come_first(scores, k):
    texts = best_classes(scores, k, LABELS)
    count = min(k, 4)
    assert len(texts) == len(scores) * count
    for row, start in zip(scores, range(0, len(texts), count), strict=True):
        found = [text.split(":", 2) for text in texts[start : start + count]]
        indices = [int(index) for _, index, _ in found]
        assert [label for _, _, label in found] == [LABELS[index] for index in indices]
        rank = [(np.isnan(row[i]), -row[i] if row[i] == row[i] else 0, i) for i in range(4)]
        assert indices == sorted(range(4), key=rank.__getitem__)[:count]
        for value, index in zip((value for value, _, _ in found), indices, strict=True):
            assert value == f"{row[index]:.6f}"


def test_classes_as_bytes():
    scores = np.array([[0, 3, 1, 2]], np.float32)
    wanted = (WantedOutput("logits", binary=True, classes=3),)
    reply, json_bytes = write_reply(
        ("m", 1), Inference(None, ONE, wanted), Prediction(scores, scores), LABELS
    )
    assert json_bytes is not None
    (output,) = json.loads(reply[:json_bytes])["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 3])
    expected = ["3.000000:1:a:b", "2.000000:3:", "1.000000:2:é"]
    blob = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in expected)
    assert reply[json_bytes:] == blob
    assert output["parameters"] == {"binary_data_size": len(blob)}


def request_of(**more: object) -> Body:
    one = {"name": "images", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
    return split(json.dumps({"inputs": [one], **more}).encode(), None)


def test_outputs_and_time():
    assert read_inference(request_of(), SIZE, LIMITS, 60).timeout_s is None
    asked = {"timeout": 250_000, "binary_data_output": True}
    inference = read_inference(request_of(parameters=asked), SIZE, LIMITS, 60)
    assert inference.timeout_s == pytest.approx(0.25)
    assert inference.outputs == tuple(WantedOutput(name, binary=True) for name in OUTPUTS)
    raw = read_inference(split(b"abc", 0), SIZE, LIMITS, 60)
    assert np.asarray(raw.images).tolist() == [[[[97, 98, 99]]]]
    assert all(output.binary for output in raw.outputs)
    with pytest.raises(InputError, match="60000000"):
        read_inference(request_of(parameters={"timeout": 60_000_001}), SIZE, LIMITS, 60)


def test_the_garbage_collector_is_on_again_after_a_large_request():
    good, bad = request_of(), split(b"[" * 20_000, None)
    assert np.asarray(read_uncollected(read_inference, good, SIZE, LIMITS, 60).images).tolist() == [
        [[[1, 2, 3]]]
    ]
    assert gc.isenabled()
    with pytest.raises(InputError):
        read_uncollected(read_inference, bad, SIZE, LIMITS, 60)
    assert gc.isenabled()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.sampled_from(["id", "parameters", "outputs", "inputs", "x"]), _JSON))
def test_any_document_is_read_or_refused_with_a_reason(more):
    with contextlib.suppress(InputError):
        read_inference(request_of(**more), SIZE, LIMITS, 60)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_a_reason(junk):
    for at in (None, 0, 1):
        with contextlib.suppress(InputError):
            read_inference(split(junk, at), SIZE, LIMITS, 60)

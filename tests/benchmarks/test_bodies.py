import json

import numpy as np
import pytest
from comparison import bodies
from comparison.bodies import Answer, Images
from comparison.processes import ServerError
from comparison.stock import Stock

_IMAGES = Images((b"one", b"three"), np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3))


def test_v2_binary_has_json_of_the_stated_length_then_the_data():
    encoding = bodies.V2_BINARY_FILES
    body = encoding.encode(_IMAGES)
    length = int(encoding.headers["Inference-Header-Content-Length"])
    tensor = json.loads(body[:length])["inputs"][0]
    assert tensor["shape"] == [2, 1]
    assert body[length:] == b"\x03\0\0\0one\x05\0\0\0three"
    assert tensor["parameters"]["binary_data_size"] == len(body) - length


def test_v2_binary_answers_are_read_from_behind_the_json():
    outputs = [
        {"name": "class", "datatype": "INT32", "shape": [2, 1]},
        {"name": "probability", "datatype": "FP32", "shape": [2, 1]},
    ]
    head = {"outputs": [{**each, "parameters": {"binary_data_size": 8}} for each in outputs]}
    data = np.array([3, 7], "<i4").tobytes() + np.array([0.5, 0.25], "<f4").tobytes()
    content = json.dumps(head).encode() + data
    assert bodies.read_v2_binary(content) == [Answer(3, 0.5), Answer(7, 0.25)]


def test_a_form_holds_every_picture_and_ends():
    body = bodies.FORM.encode(_IMAGES)
    boundary = bodies.FORM.headers["Content-Type"].partition("boundary=")[2].encode()
    assert body.count(b"--" + boundary + b"\r\n") == 2
    assert body.endswith(b"--" + boundary + b"--\r\n")


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [Answer(1, 0.7)],
        [Answer(0, 0.9), Answer(1, 0.6)],
        [Answer(1, 0.7), Answer(1, 0.61)],
    ],
)
def test_a_wrong_answer_is_found(tmp_path, answers):
    stock = Stock(tmp_path, [b"a", b"b"], _IMAGES.pixels)
    stock.probabilities = np.array([[0.3, 0.7], [0.4, 0.6]], np.float32)
    stock.check(0, 2, [Answer(1, 0.7), Answer(1, 0.6001)])
    with pytest.raises(ServerError):
        stock.check(0, 2, answers)

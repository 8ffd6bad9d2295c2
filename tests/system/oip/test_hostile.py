"""Odd and hostile requests, and image files: cases C34 to C37 of the conformance checklist."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.conftest import serving
from tests.service.foreign_models import save
from tests.system.oip.wire import (
    INFER,
    OUTPUTS,
    SHAPE,
    encoded,
    files,
    infer,
    is_refused,
    outputs,
    pictures,
    post,
    send,
    tensor,
)

ONE = pictures(1)


def test_c34_scores_that_are_no_numbers_are_null(tmp_path):
    folder = tmp_path / "models" / "odd" / "1"
    folder.mkdir(parents=True)
    # What is 0 becomes 0 / 0; random pictures never have a channel that is 0 everywhere.
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["means", "means"], ["squares"]),
        helper.make_node("Div", ["squares", "means"], ["scores"]),
    ]
    pixels = ("pixels", TensorProto.UINT8, ("n", 8, 8, 3))
    save(folder / "model.onnx", nodes, [], pixels, ("scores", ["n", 3]))
    (folder / "config.toml").write_text("[output]\nkind = 'logits'\n")
    sent = np.ones((2, 8, 8, 3), np.uint8)
    sent[1, ..., 0] = 0
    path = "/v2/models/odd/infer"
    flags = ("--device", "cpu")
    with serving(tmp_path / "models", tmp_path, *flags) as server, server.client() as client:
        answer = post(client, {"inputs": [tensor(sent)]}, path)
        assert "NaN" not in answer.text
        (logits, probabilities) = answer.json()["outputs"]
        assert logits["data"] == [1, 1, 1, None, 1, 1]
        assert probabilities["data"][3:] == [None, None, None]
        assert np.isnan(outputs(answer)["logits"][1, 0])
        # The same face as every model: the graph's own names don't show.
        described = client.get("/v2/models/odd").json()
        assert described["inputs"] == [
            {"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}
        ]
        assert [output["name"] for output in described["outputs"]] == OUTPUTS
        best = [{"name": "logits", "parameters": {"classification": 3}}]
        ranked = outputs(post(client, {"inputs": [tensor(sent)], "outputs": best}, path))["logits"]
        assert ranked.tolist() == [
            ["1.000000:0:0", "1.000000:1:1", "1.000000:2:2"],
            ["1.000000:1:1", "1.000000:2:2", "nan:0:0"],
        ]
    shutil.rmtree(tmp_path / "models")


DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"inputs":[{"name":"images","shape":[1,32,32,3],"datatype":"UINT8","data":'
        + b"[" * 900 + b"]" * 900 + b"}]}",
        b'{"a":NaN,"inputs":' + b"[" * DEEP,
        b'{"a":NaN,"b":' + b"1" * 5000 + b"}",
        b'{"inputs":[' + b"1" * 10_000 + b"]}",
    ],
    ids=range(14),
)  # fmt: skip
def test_c35_what_is_no_request(api, body):
    assert is_refused(api.post(INFER, content=body), 400)


def test_bare_nan_and_infinity_are_read_as_numbers(api):
    text = json.dumps({"inputs": [tensor(ONE)], "ignored": [float("nan"), float("-inf")]})
    assert outputs(api.post(INFER, content=text))["logits"].shape == (1, 10)
    floats = json.dumps({"inputs": [tensor(ONE, datatype="FP32", data=[float("nan")] * 3072)]})
    assert is_refused(api.post(INFER, content=floats), 400, "FP32", "UINT8")
    pixels = json.dumps({"inputs": [tensor(ONE, data=[float("nan")] * 3072)]})
    assert is_refused(api.post(INFER, content=pixels), 400, "nan", "0 to 255")


def test_c36_a_body_too_large_is_refused_unread(shipped):
    head = f"POST {INFER} HTTP/1.1\nHost: x\nContent-Length: 1000000000000\n\n"
    with send(shipped, head, b"{") as connection:
        answer = b""
        while not answer.endswith(b"}"):
            some = connection.recv(65536)
            assert some, answer
            answer += some
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert b'{"error":' in answer


def test_more_than_is_held_whole_is_refused(api):
    def endless() -> Iterator[bytes]:
        for _ in range(80):
            yield bytes(2**20)

    assert is_refused(api.post(INFER, content=endless()), 413, "max_buffer_bytes")
    assert is_refused(api.post(INFER, content=b"," * 8_000_001), 413, "numbers")
    huge = tensor(ONE, shape=[10**9, *SHAPE], data=[])
    assert is_refused(post(api, {"inputs": [huge]}), 413, "images")


def test_image_files_are_decoded_as_classify_does(api):
    pixels = pictures(3)
    big = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    sent = [encoded(pixels[0]), encoded(pixels[1], "BMP"), encoded(pixels[2], "PPM"),
            encoded(big, "JPEG")]  # fmt: skip
    found = outputs(post(api, {"inputs": [files(sent)]}))["probabilities"]
    np.testing.assert_allclose(found[:3], infer(api, pixels)["probabilities"], atol=1e-5)
    listed = {"images": [base64.b64encode(one).decode() for one in sent]}
    classified = api.post("/v1/classify?top_k=1", json=listed).json()["results"]
    assert found.argmax(axis=1).tolist() == [
        result["predictions"][0]["class_id"] for result in classified
    ]
    column = files(sent, shape=[4, 1], data=[[one] for one in files(sent)["data"]])
    np.testing.assert_array_equal(
        outputs(post(api, {"inputs": [column]}))["probabilities"].argmax(axis=1),
        found.argmax(axis=1),
    )


def test_bad_image_files_are_named(api):
    good = encoded(ONE[0])
    both = post(api, {"inputs": [files([good, b"junk", good, b""])]})
    assert is_refused(both, 400, "2 of 4", "image 1:", "image 3:")
    assert is_refused(post(api, {"inputs": [files([b"junk"])]}), 400, "not an image")
    broken = files([good], data=["!"])
    assert is_refused(post(api, {"inputs": [broken]}), 400, "base64")
    for odd in (7, None, ["a"]):
        assert is_refused(post(api, {"inputs": [files([good], data=[odd])]}), 400)
    assert is_refused(post(api, {"inputs": [files([good], shape=[2])]}), 400, "elements")
    assert is_refused(post(api, {"inputs": [files([good], shape=[1, 2])]}), 400, "shape")


def test_c37_a_picture_that_claims_to_be_huge(api):
    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    assert is_refused(post(api, {"inputs": [files([png])]}), 400, "pixels")


def test_a_reply_has_a_receipt(api):
    answer = post(api, {"inputs": [tensor(ONE)]})
    assert answer.headers["x-model"] == "cifar10/1"
    assert len(answer.headers["x-model-digest"]) == 12
    assert int(answer.headers["x-batch-size"]) >= 1
    assert answer.headers["server-timing"].startswith("decode;dur=")

"""The classification route, over real HTTP."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import CLASSES, draw

IMAGES = {"images": ("red.png", b"", "image/png")}


def png(name: str, rng: np.random.Generator, size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    draw(name, rng, size).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_header(shape: str) -> bytes:
    """An .npy header that says what it likes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def post(
    client: httpx.Client, content: bytes, kind: str | None = None, **query: str | float
) -> httpx.Response:
    headers = {} if kind is None else {"Content-Type": kind}
    return client.post("/v1/classify", content=content, headers=headers, params=query)


def first_labels(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [result["predictions"][0]["label"] for result in answer.json()["results"]]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"/problems/{code}"
    assert body["title"]
    assert body["detail"]
    assert body["hint"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def test_one_image_in_the_documented_form(client, rng):
    answer = post(client, png("red", rng), "image/png")
    body = answer.json()
    assert body["model"] == "colors"
    assert body["version"] == 1
    (result,) = body["results"]
    assert result["predictions"][0]["label"] == "red"
    assert {p["label"]: p["class_id"] for p in result["predictions"]} == {
        name: index for index, name in enumerate(CLASSES)
    }
    probabilities = [p["probability"] for p in result["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        "image/png",
        "image/jpeg",  # wrong, but the content decides
        "IMAGE/PNG",
        "image/x-whatever; q=1",
        "application/octet-stream",
        "application/x-www-form-urlencoded",  # what curl --data-binary says
        None,
    ],
)
def test_the_content_decides_not_the_content_type(client, rng, kind):
    assert first_labels(post(client, png("green", rng), kind)) == ["green"]


def test_multipart_keeps_the_order(client, rng):
    names = ["red", "blue", "green", "blue"]
    files = [("whatever", (f"{n}.png", png(n, rng, (40, 30)), "image/png")) for n in names]
    assert first_labels(client.post("/v1/classify", files=files)) == names


def test_json_takes_base64_and_data_urls(client, rng):
    plain = base64.b64encode(png("red", rng)).decode()
    wrapped = base64.encodebytes(png("green", rng)).decode()
    url = "data:image/png;base64," + base64.b64encode(png("blue", rng)).decode()
    answer = client.post("/v1/classify", json={"images": [plain, wrapped, url]})
    assert first_labels(answer) == ["red", "green", "blue"]


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
def test_thousands_of_images_are_answered_in_order(client, rng, count):
    names = [CLASSES[index % len(CLASSES)] for index in range(count)]
    drawn = {name: np.asarray(draw(name, rng)) for name in CLASSES}
    pictures = np.stack([drawn[name] for name in names])
    assert first_labels(post(client, npy(pictures), top_k=1)) == names


def test_npy_in_its_three_shapes(client, rng):
    pictures = np.stack([np.asarray(draw(name, rng)) for name in ("blue", "red")])
    assert first_labels(post(client, npy(pictures), "application/x-npy")) == ["blue", "red"]
    assert first_labels(post(client, npy(pictures[0]), "application/x-npy")) == ["blue"]
    assert first_labels(post(client, npy(pictures))) == ["blue", "red"]
    fortran = np.asfortranarray(pictures)
    assert first_labels(post(client, npy(fortran), "application/x-npy")) == ["blue", "red"]
    grey = pictures[..., 0]
    three = np.repeat(grey[..., None], 3, axis=3)
    assert (
        post(client, npy(grey), "application/x-npy").json()
        == post(client, npy(three), "application/x-npy").json()
    )


def test_npy_of_another_size_is_resized_as_a_picture_would_be(client, rng):
    picture = draw("green", rng, (50, 31))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    assert (
        post(client, npy(np.asarray(picture)), "application/x-npy").json()
        == post(client, buffer.getvalue(), "image/png").json()
    )


def test_more_images_than_a_batch_holds(client, rng):
    names = [CLASSES[index] for index in rng.integers(0, 3, 300)]
    pictures = np.stack([np.asarray(draw(name, rng)) for name in names])
    assert first_labels(post(client, npy(pictures), "application/x-npy", top_k=1)) == names


def test_top_k(client, rng):
    data = png("red", rng)
    for k, expected in ((1, 1), (2, 2), (3, 3), (100, 3)):
        (result,) = post(client, data, top_k=k).json()["results"]
        assert len(result["predictions"]) == expected


def test_model_and_version(client, rng):
    data = png("red", rng)
    assert post(client, data, model="colors", version=1).status_code == 200
    body = problem(post(client, data, model="dogs"), 404, "model_not_found")
    assert "colors" in body["hint"]
    body = problem(post(client, data, model="colors", version=9), 404, "version_not_found")
    assert "1" in body["hint"]


@pytest.mark.parametrize(
    "query",
    [
        {"top_k": 0},
        {"top_k": -1},
        {"top_k": "many"},
        {"top_k": 1.5},
        {"top_k": ""},
        {"version": "latest"},
        {"on_error": "ignore"},
        {"topk": 1},
    ],
)
def test_wrong_parameters_are_named(client, rng, query):
    body = problem(post(client, png("red", rng), **query), 422, "invalid_parameter")
    assert next(iter(query)) in body["detail"]


def test_a_bad_image_alone(client):
    body = problem(post(client, b"no picture", "image/png"), 422, "image_undecodable")
    assert body["errors"][0]["index"] == 0


def test_bad_images_among_many_are_all_named(client, rng):
    texts = [base64.b64encode(png("red", rng)).decode(), "bm8=", "%%%", "data:,x", ""]
    answer = client.post("/v1/classify", json={"images": texts})
    body = problem(answer, 422, "invalid_images")
    assert [error["index"] for error in body["errors"]] == [1, 2, 3, 4]
    assert all(error["detail"] and error["hint"] for error in body["errors"])


def test_on_error_skip_answers_the_good_ones_in_their_places(client, rng):
    good = base64.b64encode(png("red", rng)).decode()
    answer = client.post(
        "/v1/classify", params={"on_error": "skip"}, json={"images": ["bm8=", good, "!!", good]}
    )
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [sorted(result) for result in results] == [["error"], ["predictions"]] * 2
    assert results[0]["error"]["code"] == "image_undecodable"
    assert results[3]["predictions"][0]["label"] == "red"
    only_bad = post(client, b"x", "image/png", on_error="skip").json()["results"]
    assert [sorted(result) for result in only_bad] == [["error"]]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", None),
        (b"", "image/png"),
        (b"", "application/json"),
        (b'{"images": []}', "application/json"),
        (npy(np.zeros((0, 16, 16, 3), np.uint8)), "application/x-npy"),
    ],
)
def test_nothing_to_classify_is_400(client, content, kind):
    problem(post(client, content, kind), 400, "empty_request")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"images": "x"}',
        b'{"images": [1]}',
        b'{"images": ["x"], "top_k": 1}',
        b"[" * 100_000,
        b'{"images": ["\xff"]}',
    ],
)
def test_wrong_json_is_400(client, content):
    body = problem(post(client, content, "application/json"), 400, "malformed_request")
    assert "images" in body["hint"]


@pytest.mark.parametrize("kind", ["text/plain", "application/pdf", "application/xml", "png"])
def test_other_content_types_are_415(client, rng, kind):
    body = problem(post(client, png("red", rng), kind), 415, "unsupported_media_type")
    assert "image/*" in body["hint"]


def test_other_content_encodings_are_415(client, rng):
    answer = client.post(
        "/v1/classify", content=png("red", rng), headers={"Content-Encoding": "gzip"}
    )
    problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((16, 16, 3), np.float32),
        np.zeros((16, 16, 3), np.int64),
        np.zeros((16, 16), np.uint8),
        np.zeros((1, 16, 16, 4), np.uint8),
        np.zeros((1, 1, 16, 16, 3), np.uint8),
        np.zeros((2, 0, 16, 3), np.uint8),
        np.array("text"),
    ],
)
def test_other_arrays_are_422(client, array):
    body = problem(post(client, npy(array), "application/x-npy"), 422, "invalid_tensor")
    assert body["hint"]


def test_hostile_arrays_are_422(client):
    whole = npy(np.zeros((2, 16, 16, 3), np.uint8))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    giant = whole.replace(b"(2, 16, 16, 3)", b"(9**9,16,1, 3)")
    huge = whole.replace(b"(2, 16, 16, 3)", b"(99999999,1,3)")
    shapes = (
        "(0, 2**70, 28, 3)",
        f"(0, {2**63 - 1}, {2**63 - 1}, 3)",
        "(1,) * 65",
        "(1.5,)",
        str((1,) * 65),
        "(True, 1, 1, 3)",
        "(1, True, 3)",
        "(-1, -1, 1, 3)",
        "()",
        "(2, 16, 16, 3",
    )
    for shape in shapes:
        data = npy_header(shape) + b"x"
        answer = post(client, data, "application/x-npy")
        assert answer.json()["code"] in ("invalid_tensor", "empty_request"), shape
    for data in (whole[:-1], whole + b"x", whole[:20], pickled.getvalue(), giant, huge, b"PK\3\4"):
        problem(post(client, data, "application/x-npy"), 422, "invalid_tensor")


def test_multipart_that_is_none(client, rng):
    kind = "multipart/form-data; boundary=x"
    problem(post(client, b"junk", kind), 400, "malformed_request")
    problem(post(client, b"junk", "multipart/form-data"), 400, "malformed_request")
    problem(post(client, b"--x--\r\n", kind), 400, "empty_request")
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--x--\r\n'
    for charset in ("punycode", "undefined", "nonsense", "utf-16"):
        answer = post(client, part, f"{kind}; charset={charset}")
        problem(answer, 400, "malformed_request")
    whole = client.build_request("POST", "/", files=[("f", ("a.png", png("red", rng)))] * 2)
    content, form = whole.read(), whole.headers["content-type"]
    assert len(post(client, content, form).json()["results"]) == 2
    for cut in (3, 4, 40, len(content) // 2, len(content) - 60):
        body = problem(post(client, content[:-cut], form), 400, "malformed_request")
        assert "cut short" in body["detail"]
    text = client.post("/v1/classify", files={"top_k": (None, "3")})
    body = problem(text, 400, "malformed_request")
    assert "top_k" in body["detail"]


def test_routes_and_methods_that_do_not_exist(client):
    problem(client.get("/nope"), 404, "not_found")
    answer = client.get("/v1/classify")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_the_request_id_goes_through(client, rng):
    for given in ("abc-123", "x" * 64):
        answer = client.post(
            "/v1/classify", content=png("red", rng), headers={"X-Request-ID": given}
        )
        assert answer.headers["x-request-id"] == given
    for bad in ("x" * 65, "a b", "{}"):
        answer = client.get("/healthz", headers={"X-Request-ID": bad})
        assert answer.headers["x-request-id"] != bad


def test_the_examples_in_the_openapi_document_work(client):
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    # Tools that send every example can't write these two as JSON; their schemas describe them.
    without = {"application/x-npy", "application/x-ndjson"}
    assert all(kind["examples"] for name, kind in body.items() if name not in without)
    assert all(body[name]["schema"]["description"] for name in without)
    for kind in ("image/*", "application/octet-stream"):
        for example in body[kind]["examples"].values():
            assert post(client, example["value"].encode()).status_code == 200
    for example in body["multipart/form-data"]["examples"].values():
        texts = example["value"]["images"]
        answer = client.post(
            "/v1/classify", files=[("images", ("x", text.encode())) for text in texts]
        )
        assert len(answer.json()["results"]) == len(texts)
    for example in body["application/json"]["examples"].values():
        answer = client.post("/v1/classify", content=json.dumps(example["value"]),
                             headers={"Content-Type": "application/json"})  # fmt: skip
        assert answer.status_code == 200, answer.text


def test_a_picture_in_many_modes_gets_the_same_answer(client, rng):
    picture = draw("blue", rng)
    for mode, format in (("RGBA", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("RGB", "BMP")):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, format)
        assert first_labels(post(client, buffer.getvalue())) == ["blue"]
    deep = io.BytesIO()
    Image.fromarray(np.full((16, 16), 40000, np.uint16)).save(deep, "PNG")
    assert post(client, deep.getvalue()).status_code == 200

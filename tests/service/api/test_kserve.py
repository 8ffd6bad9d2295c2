"""KServe's V1 protocol over real HTTP."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import CLASSES, Server, draw
from tests.service.api.test_classify import npy, png, post, problem

PREDICT = "/v1/models/colors:predict"


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def predict(client: httpx.Client, *instances: Any, path: str = PREDICT) -> list[dict[str, Any]]:
    answer = client.post(path, json={"instances": instances})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"predictions"}
    predictions: list[dict[str, Any]] = body["predictions"]
    assert len(predictions) == len(instances)
    return predictions


def labels(predictions: list[dict[str, Any]]) -> list[str]:
    return [prediction["label"] for prediction in predictions]


def test_answers_are_those_of_classify(client, rng):
    pictures = [draw(name, rng) for name in CLASSES]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    answer = post(client, npy(pixels), "application/x-npy").json()
    best = [result["predictions"][0] for result in answer["results"]]
    assert predict(client, *pixels.tolist()) == best
    files = [png(name, rng) for name in CLASSES]
    best = [post(client, file).json()["results"][0]["predictions"][0] for file in files]
    named = [{"image_bytes": b64(files[0])}, b64(files[1]), {"image": b64(files[2])}]
    for found, expected in zip(predict(client, *named), best, strict=True):
        assert found.keys() == {"class_id", "label", "probability"}
        assert found == pytest.approx(expected, abs=1e-6)


def test_one_request_may_mix_files_and_pixels_of_any_size(client, rng):
    red, blue = draw("red", rng, (40, 30)), draw("blue", rng)
    instances = [
        np.asarray(red).tolist(),
        b64(png("green", rng, (50, 20))),
        np.asarray(blue).tolist(),
        {"image": b64(png("red", rng))},
    ]
    assert labels(predict(client, *instances)) == ["red", "green", "blue", "red"]


def test_grey_pixels_are_those_of_a_grey_array(client, rng):
    grey = np.asarray(draw("red", rng))[..., 0]
    (found,) = predict(client, grey.tolist())
    answer = post(client, npy(grey[None]), "application/x-npy").json()
    assert found == answer["results"][0]["predictions"][0]


def test_many_instances_are_answered_in_order(client, rng):
    names = [CLASSES[index] for index in rng.integers(0, 3, 300)]
    drawn = {name: np.asarray(draw(name, rng)).tolist() for name in CLASSES}
    body = json.dumps({"instances": [drawn[name] for name in names]})
    answer = client.post(PREDICT, content=body)
    assert labels(answer.json()["predictions"]) == names
    assert "x-batch-size" in answer.headers
    assert answer.headers["x-model"] == "colors/1"


@pytest.mark.parametrize("kind", [None, "application/json", "text/plain", "application/json; q=1",
                                  "application/x-www-form-urlencoded"])  # fmt: skip
def test_the_content_type_does_not_matter(client, rng, kind):
    body = json.dumps({"instances": [b64(png("green", rng))]}).encode()
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post(PREDICT, content=body, headers=headers)
    assert labels(answer.json()["predictions"]) == ["green"]


def test_a_body_without_a_length(client, rng):
    body = json.dumps({"instances": [b64(png("green", rng))]}).encode()
    answer = client.post(PREDICT, content=iter([body[:100], body[100:]]))
    assert labels(answer.json()["predictions"]) == ["green"]


def test_versions(client, rng):
    picture = b64(png("red", rng))
    path = "/v1/models/colors/versions/{}:predict"
    assert labels(predict(client, picture, path=path.format(1))) == ["red"]
    for version in ("9", "01", "abc", "1.0", "-1", "latest"):
        answer = client.post(path.format(version), json={"instances": [picture]})
        problem(answer, 404, "version_not_found")


@pytest.mark.parametrize(
    "name",
    ["dogs", "colors:predict", "c%C3%B6lors", "%00", "..%5C", "a b", "%F0%9F%90%B1"],
)
def test_names_that_are_no_models(client, name):
    answer = client.post(f"/v1/models/{name}:predict", json={"instances": [[[0]]]})
    body = problem(answer, 404, "model_not_found")
    assert "colors" in body["hint"]


def test_the_path_may_be_quoted(server: Server):
    # httpx would write the path anew.
    for path in ("/v1/models/colors%3Apredict", "/v1/models/%63olors%3apredict"):
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        connection.request("POST", path, b'{"instances": [[[0]]]}')
        assert connection.getresponse().status == 200
        connection.close()


def test_other_methods_and_verbs(client):
    for path in (PREDICT, "/v1/models/colors/versions/1:predict"):
        for method in ("GET", "PUT", "DELETE"):
            answer = client.request(method, path)
            problem(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == "POST"
    assert client.post("/v1/models/colors:explain", json={}).status_code == 405
    problem(client.post("/v1/models/a%2Fb:predict", json={}), 404, "not_found")


def test_bad_instances_are_all_named(client, rng):
    instances = [b64(png("red", rng)), b64(b"no picture"), [[300]], "x", {"b64": "%"}]
    body = problem(client.post(PREDICT, json={"instances": instances}), 422, "invalid_images")
    assert [error["index"] for error in body["errors"]] == [1, 2, 3, 4]
    assert "on_error" not in body["hint"]
    alone = problem(client.post(PREDICT, json={"instances": [[[1.5]]]}), 422, "image_invalid")
    assert "instances[0]" in alone["detail"]
    alone = problem(client.post(PREDICT, json={"instances": [b64(b"x")]}), 422, "image_undecodable")
    assert [error["index"] for error in alone["errors"]] == [0]


def test_bodies_that_are_no_requests(client):
    problem(client.post(PREDICT), 400, "empty_request")
    problem(client.post(PREDICT, content=b"{"), 400, "malformed_request")
    columnar = client.post(PREDICT, json={"inputs": [[[0]]]})
    assert "columnar" in problem(columnar, 400, "malformed_request")["detail"]
    for encodings in (["gzip"], ["identity", "gzip"]):
        headers = [("Content-Encoding", encoding) for encoding in encodings]
        packed = client.post(PREDICT, content=b"x", headers=headers)
        problem(packed, 415, "unsupported_media_type")
    large = client.post(PREDICT, content=b"[" * (64 * 2**20 + 1))
    assert "max_buffer_bytes" in problem(large, 413, "request_too_large")["hint"]


def test_the_timeout_header(client, rng):
    body = {"instances": [b64(png("red", rng))]}
    answer = client.post(PREDICT, json=body, headers={"X-Request-Timeout": "20"})
    assert answer.status_code == 200
    for wrong in ("0", "soon", "-1", "99999"):
        answer = client.post(PREDICT, json=body, headers={"X-Request-Timeout": wrong})
        assert "X-Request-Timeout" in problem(answer, 422, "invalid_parameter")["detail"]
    slow = {"instances": [b64(png("red", rng, (600, 600)))] * 4}
    answer = client.post(PREDICT, json=slow, headers={"X-Request-Timeout": "1ms"})
    problem(answer, 504, "deadline_exceeded")


def test_a_model_says_that_it_is_ready(client):
    body = client.get("/v1/models/colors").json()
    assert (body["name"], body["ready"]) == ("colors", True)


def test_the_examples_in_the_openapi_document_work(client):
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v1/models/{name}:predict", "/v1/models/{name}/versions/{version}:predict"):
        operation = paths[path]["post"]
        assert set(operation["responses"]) == {
            *("200", "400", "401", "403", "404", "408", "413", "415", "422", "429", "503", "504")
        }
        (content,) = operation["requestBody"]["content"].values()
        for example in content["examples"].values():
            answer = client.post(path.format(name="colors", version=1), json=example["value"])
            assert answer.status_code == 200, answer.text


def test_requests_are_counted_by_route_and_model(client, rng):
    client.post(PREDICT, json={"instances": [b64(png("red", rng))]})
    metrics = client.get("/metrics").text
    assert 'model="colors",route="/v1/models/{name}:predict",status="200"' in metrics

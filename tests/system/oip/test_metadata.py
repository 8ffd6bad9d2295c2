"""What is there: cases C1 to C4, C23 and C38 of the conformance checklist."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from importlib import metadata

import httpx
import numpy as np
import pytest

from tests.conftest import ADARESNET, MODELS, free_port
from tests.system.oip.wire import INFER, OUTPUTS, is_refused, outputs, pictures, post, tensor

BROWSERS = {"Accept-Encoding": "gzip, deflate, br", "Content-Type": "application/octet-stream"}


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_c1_server_metadata(api, path):
    answer = api.get(path)
    assert answer.status_code == 200
    assert answer.json() == {
        "name": "adaresnet",
        "version": metadata.version("adaresnet"),
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_repository",
            "parameters",
            "statistics",
        ],
    }


def test_c2_while_loading_the_service_is_live_and_not_ready(tmp_path):
    for number in range(3):
        shutil.copytree(MODELS / "cifar10", tmp_path / "models" / f"copy{number}")
    port = free_port()
    url = f"http://127.0.0.1:{port}/v2"
    command = [ADARESNET, "serve", "--models", tmp_path / "models", "--port", str(port)]
    seen, models = set(), set()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while (200, 200) not in seen and time.monotonic() < deadline:
            with contextlib.suppress(httpx.ConnectError):
                live, ready = httpx.get(f"{url}/health/live"), httpx.get(f"{url}/health/ready")
                seen.add((live.status_code, ready.status_code))
                assert live.json() == {"live": True}
                if ready.status_code == 503:
                    assert ready.json()["ready"] is False
                    assert "loaded" in ready.json()["error"]
                    one = httpx.get(f"{url}/models/copy2/ready")
                    models.add(one.status_code)
                    assert one.status_code == 200 or one.json()["error"]
                else:
                    assert ready.json() == {"ready": True}
    finally:
        process.terminate()
        process.wait(30)
    assert seen == {(200, 503), (200, 200)}
    assert 503 in models


@pytest.mark.parametrize("rest", ["", "/ready", "/config", "/stats", "/infer"])
@pytest.mark.parametrize(
    ("model", "word"),
    [("dogs", "cifar10, mnist"), ("cifar10/versions/99", "99"), ("cifar10/versions/abc", "abc"),
     ("cifar10/versions/01", "01")],
)  # fmt: skip
def test_c3_unknown_models_and_versions(api, model, rest, word):
    method = "POST" if rest == "/infer" else "GET"
    assert is_refused(api.request(method, f"/v2/models/{model}{rest}"), 404, word)


def test_c4_unknown_routes_and_methods(api):
    answer = api.get(INFER)
    assert is_refused(answer, 405, INFER)
    assert answer.headers["allow"] == "POST"
    assert is_refused(api.get("/v2/nope"), 404, "/v2/nope")
    assert is_refused(api.post("/v2/models/cifar10"), 405)
    assert is_refused(api.get("/v2/repository/index"), 405)
    # The form is of /v2 alone.
    for path in ("/v2x", "/v1/models/dogs", "/nope"):
        assert api.get(path).headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/v2/models/cifar10", "/v2/models/cifar10/versions/1"])
def test_model_metadata(api, path):
    scores = {"datatype": "FP32", "shape": [-1, 10]}
    assert api.get(path).json() == {
        "name": "cifar10",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
        "outputs": [{"name": name, **scores} for name in OUTPUTS],
    }


@pytest.mark.parametrize("path", ["/v2/models/mnist", "/v2/models/mnist/versions/1"])
def test_readiness_and_configuration_of_a_model(api, path):
    assert api.get(f"{path}/ready").json() == {"name": "mnist", "ready": True}
    config = api.get(f"{path}/config").json()
    served = api.get("/v1/models/mnist").json()["serving"]
    height = api.get("/v1/models/mnist").json()["input"]["height"]
    assert config["name"] == "mnist"
    assert config["backend"] == "onnxruntime"
    assert config["platform"] == "onnxruntime_onnx"
    assert config["max_batch_size"] >= 1000
    assert config["input"] == [
        {
            "name": "images",
            "data_type": "TYPE_UINT8",
            "dims": [height, height, 3],
            "format": "FORMAT_NHWC",
        }
    ]
    assert config["output"] == [
        {"name": name, "data_type": "TYPE_FP32", "dims": [10]} for name in OUTPUTS
    ]
    sizes = config["dynamic_batching"]["preferred_batch_size"]
    assert set(sizes) == {served["batch_size"], served["small_batch_size"]}
    assert config["instance_group"] == [{"kind": "KIND_CPU", "count": served["instances"]}]


def test_names_of_models(api):
    assert api.get("/v2/models").json() == {"models": ["cifar10", "mnist"]}
    assert is_refused(api.get("/v2/models/"), 404)


def test_c23_only_replies_to_inferences_are_ever_compressed(api):
    for method, path in (
        ("GET", "/v2"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/cifar10"),
        ("GET", "/v2/models/cifar10/config"),
        ("GET", "/v2/models/stats"),
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/nope"),
    ):
        answer = api.request(method, path, headers=BROWSERS)
        assert "content-encoding" not in answer.headers
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()


def test_c38_what_clients_of_kserve_send_and_read(api):
    assert api.get("/v2/health/live").json()["live"] is True
    assert api.get("/v2/health/ready").json()["ready"] is True
    request = {
        "id": "5b1b0c8e",
        "model_name": "cifar10",
        "inputs": [tensor(pictures(1))],
        "parameters": None,
    }
    answer = api.post(INFER, json=request)
    assert answer.json()["model_name"] == "cifar10"
    assert answer.json()["id"] == "5b1b0c8e"
    assert np.isfinite(outputs(answer)["logits"]).all()


def test_the_openapi_document_has_every_route_and_no_problem_document(api):
    paths = {
        path: operations
        for path, operations in api.get("/openapi.json").json()["paths"].items()
        if path.startswith("/v2")
    }
    for path in ("/v2", "/v2/models", INFER.replace("cifar10", "{name}"), "/v2/repository/index",
                 "/v2/repository/models/{name}/load", "/v2/models/stats",
                 "/v2/models/{name}/versions/{version}/infer"):  # fmt: skip
        assert path in paths
    for path, operations in paths.items():
        for operation in operations.values():
            named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            for status, response in operation["responses"].items():
                assert "application/problem+json" not in response.get("content", {})
                if int(status) >= 400:
                    (schema,) = response["content"].values()
                    assert schema["schema"]["$ref"].endswith("ProtocolError")
    statuses = set(paths["/v2/models/{name}/infer"]["post"]["responses"])
    assert statuses == {
        *("200", "400", "401", "403", "404", "408", "413", "415", "429", "500", "503", "504")
    }
    assert post(api, {"inputs": []}).status_code == 400

"""Other people's clients, unmodified, against the real process.

Each runs a script in an environment of its own ('make test-clients'), for their requirements clash
with ours. What it got is compared with what ``/v1/classify`` says.
"""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import CLASSES, ROOT, Server, draw, serving
from tests.service.foreign_models import logarithm
from tests.system.test_access import create_key

ENVIRONMENT = ROOT / ".venv-clients"
SCRIPTS = Path(__file__).parent / "scripts"
MODEL = "colors"
OUTPUTS = ["logits", "probabilities"]

pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / ".installed").is_file(),
    reason="the clients are not installed; 'make test-clients' does that, with a package index",
)

needs_mlserver = pytest.mark.skipif(
    not any(ENVIRONMENT.glob("lib/python*/site-packages/mlserver")),
    reason="MLServer is not there for this Python",
)

Arrays = dict[str, list[list[float]]]


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    rng = np.random.default_rng(3)
    return np.stack([np.asarray(draw(name, rng)) for name in (*CLASSES, "red")])


@pytest.fixture(scope="module")
def files(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pixels as an array, then a picture of each class."""
    folder = tmp_path_factory.mktemp("clients")
    np.save(folder / "pixels.npy", pixels)
    rng = np.random.default_rng(4)
    for name in CLASSES:
        draw(name, rng, (40, 30)).save(folder / f"{name}.png")
    return [folder / "pixels.npy", *(folder / f"{name}.png" for name in CLASSES)]


@pytest.fixture(scope="module")
def expected(server: Server, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Probabilities [N, C] by the service's own route."""
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    answer = httpx.post(f"{server.url}/v1/classify", content=buffer.getvalue(), timeout=60)
    rows = [
        sorted(result["predictions"], key=lambda one: one["class_id"])
        for result in answer.json()["results"]
    ]
    return np.array([[one["probability"] for one in row] for row in rows])


def run(script: str, *args: object) -> Any:
    """What a script prints."""
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "python", SCRIPTS / script, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def agree(arrays: Arrays, expected: NDArray[np.float64]) -> None:
    """Both outputs are those of the network."""
    assert list(arrays) == OUTPUTS
    logits, probabilities = (np.array(arrays[name]) for name in OUTPUTS)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-5)


def check_metadata(answers: dict[str, Any]) -> None:
    server, model = answers["server"], answers["metadata"]
    assert server["name"] == "adaresnet"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])
    assert (model["name"], model["versions"]) == (MODEL, ["1"])
    (taken,) = model["inputs"]
    assert (taken["datatype"], taken["shape"]) == ("UINT8", [-1, 16, 16, 3])
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["outputs"]] == [
        (name, "FP32", [-1, 3]) for name in OUTPUTS
    ]


@pytest.fixture(scope="module")
def triton(server: Server, files: list[Path]) -> dict[str, Any]:
    answers: dict[str, Any] = run("triton_http.py", address(server), MODEL, *files)
    return answers


def address(server: Server) -> str:
    return server.url.removeprefix("http://")


def test_triton_inference_in_every_form(triton, expected):
    assert len(triton["ways"]) == 13
    for arrays in triton["ways"].values():
        agree(arrays, expected)
    np.testing.assert_allclose(triton["some_outputs"]["probabilities"], expected, atol=1e-6)
    assert list(triton["some_outputs"]) == ["probabilities"]


def test_triton_image_files(triton):
    probabilities = np.array(triton["files"]["probabilities"])
    assert probabilities.argmax(axis=1).tolist() == [0, 1, 2]


def test_triton_health_and_metadata(triton):
    assert triton["live"] is triton["ready"] is True
    assert triton["model_ready"] is triton["version_ready"] is True
    assert triton["unknown_ready"] is False
    check_metadata(triton)
    assert triton["version_metadata"] == triton["metadata"]
    config = triton["config"]
    assert (config["name"], config["input"][0]["dims"]) == (MODEL, [16, 16, 3])
    assert config["max_batch_size"] > 1
    assert triton["index"] == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}]


def test_triton_classification(triton, expected):
    best = np.argsort(-expected, axis=1)
    for form, count in (("binary", 2), ("JSON", 2), ("all", 3)):
        rows = triton["classes"][form]
        assert [len(row) for row in rows] == [count] * len(expected)
        for row, order in zip(rows, best, strict=True):
            values, indices, labels = zip(*(text.split(":") for text in row), strict=True)
            assert [int(index) for index in indices] == order[:count].tolist()
            assert list(labels) == [CLASSES[index] for index in order[:count]]
            assert sorted(map(float, values), reverse=True) == list(map(float, values))


def test_triton_ids_and_concurrency(triton):
    assert triton["id"] == "a/ä 1"
    assert triton["no_id"] is False
    assert triton["async_ids"] == [str(index) for index in range(20)]
    first = triton["ways"]["default"]["logits"][0]
    np.testing.assert_allclose(triton["async"], [first] * 20, atol=1e-4)


def test_triton_statistics(triton):
    statistics = triton["statistics"]
    assert statistics["all"] == 1
    assert statistics["images"] == statistics["success"] == 20
    assert 1 <= statistics["runs"] <= 20
    assert {"batch_stats", "inference_stats", "last_inference"} <= set(statistics["keys"])


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("unknown model", 404, ["unheard-of", MODEL]),
        ("unknown version", 404, ["99"]),
        ("unknown metadata", 404, ["unheard-of"]),
        ("unknown statistics", 404, ["unheard-of"]),
        ("unknown input", 400, ["nope"]),
        ("unknown output", 400, ["nope", "logits"]),
        ("two inputs", 400, ["'images', 'images'"]),
        ("shape", 400, ["[4, 16, 16, 2]", "[-1, 16, 16, 3]"]),
        ("rank", 400, ["[16, 16, 3]", "[-1, 16, 16, 3]"]),
        ("empty", 400, ["empty"]),
        ("datatype", 400, ["FP32", "UINT8"]),
        ("shared memory", 501, ["shared memory", "binary"]),
        ("load a file", 403, []),
        ("trace", 501, []),
        ("log", 501, []),
    ],
)
def test_triton_errors(triton, what, status, words):
    error = triton["errors"][what]
    assert error is not None, "it was not refused"
    assert error["status"] == str(status), error
    assert error["message"]
    for word in words:
        assert word in error["message"]


def test_triton_manages_models(exported, tmp_path):
    key, line = create_key("operator", "predict,manage")
    file = tmp_path / "keys.toml"
    file.write_text(line)
    with serving(exported.repository, tmp_path, "--api-keys-file", str(file)) as server:
        answers = run("triton_manage.py", address(server), MODEL, key)
    assert answers["before"] == answers["loaded"] == {"ready": True, "index": [[MODEL, "READY"]]}
    assert answers["unloaded"] == {"ready": False, "index": [[MODEL, "UNAVAILABLE"]]}
    assert answers["without a key"] == "401"
    assert answers["with a file"] == "403"
    assert answers["unknown"] == "404"


def test_triton_reads_scores_that_are_no_number(tmp_path):
    (tmp_path / "logarithm" / "1").mkdir(parents=True)
    logarithm(tmp_path / "logarithm" / "1" / "model.onnx")
    pictures = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 101, np.uint8)])
    np.save(tmp_path / "pixels.npy", pictures)
    with serving(tmp_path, tmp_path) as server:
        answers = run("triton_aio.py", address(server), "logarithm", tmp_path / "pixels.npy")
    for arrays in answers["ways"].values():
        found = np.array(arrays["logits"])
        assert np.isnan(found[0]).all()
        np.testing.assert_allclose(found[1], np.log(100), rtol=1e-6)


def test_triton_with_asyncio(server, files, expected):
    answers = run("triton_aio.py", address(server), MODEL, files[0])
    assert answers["live"] is answers["ready"] is answers["model_ready"] is True
    assert answers["unknown_ready"] is False
    check_metadata(answers)
    assert answers["config"]["name"] == MODEL
    assert [row["name"] for row in answers["index"]] == [MODEL]
    assert answers["statistics"]["model_stats"][0]["name"] == MODEL
    for arrays in answers["ways"].values():
        agree(arrays, expected)
    first = answers["ways"]["default"]["logits"][0]
    np.testing.assert_allclose(answers["at_once"], [first] * 20, atol=1e-4)
    assert answers["error"]["status"] == "404"
    assert "unheard-of" in answers["error"]["message"]


@pytest.fixture(scope="module")
def kserve(server: Server, files: list[Path]) -> dict[str, Any]:
    answers: dict[str, Any] = run("kserve_rest.py", server.url, MODEL, *files)
    return answers


def test_kserve_v1(kserve, expected):
    v1 = kserve["v1"]
    assert v1["live"] is v1["ready"] is True
    found = v1["pixels"]["predictions"]
    assert [one["class_id"] for one in found] == expected.argmax(axis=1).tolist()
    probabilities = [one["probability"] for one in found]
    np.testing.assert_allclose(probabilities, expected.max(axis=1), atol=1e-6)
    assert [one["label"] for one in v1["files"]["predictions"]] == list(CLASSES)
    assert v1["unknown"]["status"] == 404
    assert v1["wrong"]["status"] == 422


def test_kserve_v2(kserve, expected):
    v2 = kserve["v2"]
    assert v2["live"] is v2["ready"] is v2["model_ready"] is True
    assert len(v2["ways"]) == 4
    for arrays in v2["ways"].values():
        agree(arrays, expected)
    assert v2["wrong"]["status"] == 400
    assert "nope" in v2["wrong"]["message"]


@needs_mlserver
def test_mlserver(server, files, expected):
    answers = run("mlserver_types.py", server.url, MODEL, files[0])
    check_metadata(answers)
    assert answers["id"] == "mine"
    assert answers["name_and_version"] == [MODEL, "1"]
    for arrays in answers["ways"].values():
        agree(arrays, expected)
    (classes,) = answers["classes"]
    assert len(classes) == 2 * len(expected)
    assert "inputs" in answers["error"]


@needs_mlserver
def test_mlserver_infers_a_file_of_requests(server, pixels, expected, tmp_path):
    """The batch client of its command line, which joins requests and takes the answers apart."""
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    requests.write_text("".join(f"{json.dumps(request_of(one))}\n" for one in pixels))
    command = (
        *("infer", "-u", address(server), "-m", MODEL, "-i", requests, "-o", answers),
        *("-s", 2, "-w", 2),
    )
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "mlserver", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(lines) == len(pixels)
    found = {line["parameters"]["batch_index"]: line for line in lines}
    for index, row in enumerate(expected):
        outputs = {one["name"]: one["data"] for one in found[index]["outputs"]}
        np.testing.assert_allclose(np.ravel(outputs["probabilities"]), row, atol=1e-6)


def request_of(picture: NDArray[np.uint8]) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": "images",
                "shape": [1, *picture.shape],
                "datatype": "UINT8",
                "data": picture.ravel().tolist(),
            }
        ]
    }

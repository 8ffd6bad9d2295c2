from __future__ import annotations

from tests.conftest import CLASSES


def test_model_list_and_detail(client):
    (listed,) = client.get("/v1/models").json()["models"]
    detail = client.get("/v1/models/colors").json()
    assert listed == detail
    assert detail["name"] == "colors"
    assert detail["ready"] is True
    assert detail["classes"] == list(CLASSES)
    assert detail["input"]["height"] == 16
    assert detail["execution_provider"] == "CPUExecutionProvider"
    assert detail["accuracy"]["images"] == 48
    assert [scale["block"] for scale in detail["shortcut_scales"]] == [
        "stage1_block1",
        "stage2_block1",
        "stage3_block1",
    ]
    (version,) = detail["versions"]
    assert version["version"] == 1
    assert version["ready"] is True
    assert len(version["digest"]) == 64
    assert 0 <= version["golden_difference"] < 1e-3


def test_unknown_model(client):
    answer = client.get("/v1/models/dogs")
    assert answer.status_code == 404
    assert answer.json()["code"] == "model_not_found"
    assert "colors" in answer.json()["hint"]


def test_health(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/startupz").json() == {"status": "started"}
    for path in ("/healthz", "/readyz", "/startupz"):
        assert client.head(path).status_code == 200


def test_documentation(client):
    assert client.get("/docs").status_code == 200
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert set(content) == {
        "image/*",
        "application/octet-stream",
        "multipart/form-data",
        "application/json",
        "application/x-ndjson",
        "application/x-npy",
    }

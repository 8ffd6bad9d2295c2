"""Index, load and unload: cases C30 to C32 of the conformance checklist."""

from __future__ import annotations

import base64
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.api.auth.keys import line_of
from tests.conftest import MODELS, Server, serving
from tests.system.oip.wire import infer, is_refused, pictures, post, tensor
from tests.system.prometheus import eventually

KEY, WEAK_KEY = "ada_manager", "ada_phone"
WITH_KEY = {"X-API-Key": KEY}
MANAGE = "/v2/repository/models"
Models = dict[tuple[str, str], tuple[str, str]]


def test_c30_the_index_of_an_empty_request(api):
    rows = [
        {"name": name, "version": "1", "state": "READY", "reason": ""}
        for name in ("cifar10", "mnist")
    ]
    for body in (b"", b"{}", b'{"ready":true}', b'{"ready":false,"more":1}'):
        assert api.post("/v2/repository/index", content=body).json() == rows
    for wrong in (b"[]", b"{", b'{"ready":1}', b'{"ready":"true"}'):
        assert is_refused(api.post("/v2/repository/index", content=wrong), 400)


@pytest.mark.parametrize("action", ["load", "unload"])
def test_nobody_manages_without_keys(api, action):
    for headers in ({}, WITH_KEY):
        answer = api.post(f"{MANAGE}/cifar10/{action}", headers=headers)
        assert is_refused(answer, 403, "key")
    assert api.get("/v2/models/cifar10/ready").status_code == 200


class Managed:
    """A server whose models are managed, and the folder they are in."""

    def __init__(self, server: Server, root: Path) -> None:
        self.server = server
        self.root = root
        self.client = httpx.Client(base_url=server.url, timeout=60, headers=WITH_KEY)

    def manage(self, action: str, name: str = "mnist", body: object = None) -> httpx.Response:
        path = f"{MANAGE}/{name}/{action}"
        return self.client.post(path, json=body) if body is not None else self.client.post(path)

    def index(self) -> Models:
        # A new connection may lead to any of the workers.
        rows = httpx.post(f"{self.server.url}/v2/repository/index", headers=WITH_KEY).json()
        return {(row["name"], row["version"]): (row["state"], row["reason"]) for row in rows}

    def status(self, path: str) -> int:
        return httpx.get(f"{self.server.url}{path}", headers=WITH_KEY).status_code


def start(folder: Path, *flags: str) -> Iterator[Managed]:
    models, keys = folder / "models", folder / "keys.toml"
    shutil.copytree(MODELS / "cifar10", models / "cifar10")
    shutil.copytree(MODELS / "mnist", models / "mnist")
    scopes = (("deploy", KEY, ["predict", "manage"]), ("phone", WEAK_KEY, ["predict"]))
    keys.write_text("".join(line_of(*one) + "\n" for one in scopes))
    flags = ("--device", "cpu", "--api-keys-file", str(keys), *flags)
    with serving(models, folder, *flags) as server:
        managed = Managed(server, models)
        yield managed
        managed.client.close()


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    yield from start(tmp_path_factory.mktemp("managed"), "--repository-poll-s", "0.2")


def test_c31_files_and_configurations_are_refused_also_with_a_key(managed: Managed):
    model = base64.b64encode(b"model").decode()
    for parameters in ({"file:1/model.onnx": model}, {"config": "{}"}, {"config": 1, "a": 2}):
        answer = managed.manage("load", body={"parameters": parameters})
        assert is_refused(answer, 403, "folder")
    assert managed.index()["mnist", "1"] == ("READY", "")


def test_a_key_without_the_scope_manages_nothing(managed: Managed):
    path = f"{managed.server.url}{MANAGE}/mnist/unload"
    assert is_refused(httpx.post(path, headers={"X-API-Key": WEAK_KEY}), 403, "manage")
    assert is_refused(httpx.post(path), 401, "key")
    assert managed.status("/v2/models/mnist/ready") == 200


def test_c32_an_unloaded_model_is_gone_and_others_are_not(managed: Managed):
    before = infer(managed.client, pictures(2))
    assert managed.manage("unload", body={"parameters": {"unload_dependents": True}}).json() == {}
    managed.client.get("/readyz").raise_for_status()
    for path in ("/ready", "", "/config"):
        answer = managed.client.get(f"/v2/models/mnist{path}")
        assert answer.status_code == 503
        assert "unloaded" in answer.json()["error"]
    body = {"inputs": [tensor(pictures(1))]}
    assert is_refused(post(managed.client, body, "/v2/models/mnist/infer"), 503, "unloaded")
    assert managed.index() == {
        ("cifar10", "1"): ("READY", ""),
        ("mnist", "1"): ("UNAVAILABLE", "unloaded"),
    }
    only_ready = managed.client.post("/v2/repository/index", json={"ready": True}).json()
    assert [row["name"] for row in only_ready] == ["cifar10"]
    assert managed.client.get("/v2/models").json() == {"models": ["cifar10"]}
    assert managed.client.get("/v2/models/mnist/stats").json() == {"model_stats": []}
    shown = [dict(labels) for name, labels in served(managed)]
    assert {row["model"] for row in shown} == {"cifar10"}
    # Looks at the folder don't bring it back, even if its files change.
    (managed.root / "mnist" / "1" / "model.onnx").touch()
    time.sleep(1)
    assert managed.status("/v2/models/mnist/ready") == 503
    np.testing.assert_array_equal(infer(managed.client, pictures(2))["logits"], before["logits"])
    assert managed.client.get("/v1/models/mnist").json()["ready"] is False
    assert managed.manage("unload").status_code == 200  # once more does no harm
    assert managed.manage("load", body={}).json() == {}
    assert managed.status("/v2/models/mnist/ready") == 200
    assert managed.index()["mnist", "1"] == ("READY", "")


def served(managed: Managed) -> list[tuple[str, frozenset[tuple[str, str]]]]:
    text = managed.client.get("/metrics").text
    found = []
    for line in text.splitlines():
        if line.startswith("adaresnet_model_info{"):
            pairs = line.partition("{")[2].partition("}")[0].split(",")
            labels = (pair.split("=") for pair in pairs)
            found.append(("info", frozenset((key, value.strip('"')) for key, value in labels)))
    return found


def test_requests_in_work_are_finished_when_their_model_is_unloaded(managed: Managed):
    failures: list[str] = []
    end = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=managed.server.url, timeout=60, headers=WITH_KEY) as client:
            while not end.is_set():
                answer = post(client, {"inputs": [tensor(pictures(20))]})
                if answer.status_code not in (200, 503):
                    failures.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert managed.manage("unload", "cifar10").status_code == 200
        assert managed.status("/v2/models/cifar10/ready") == 503
        assert managed.manage("load", "cifar10").status_code == 200
    end.set()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert infer(managed.client, pictures(1))["logits"].shape == (1, 10)


def test_unknown_models_can_not_be_managed(managed: Managed):
    for action in ("load", "unload"):
        for name in ("dogs", "..", ".hidden", "x" * 300):
            assert managed.manage(action, name).status_code == 404
        for wrong in (b"[]", b"{", b'{"parameters":{"a":[]}}'):
            answer = managed.client.post(f"{MANAGE}/mnist/{action}", content=wrong)
            assert is_refused(answer, 400)
        assert is_refused(managed.client.get(f"{MANAGE}/mnist/{action}"), 405)


def test_a_model_that_can_not_be_loaded_says_why(managed: Managed):
    folder = managed.root / "cifar10" / "2"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"no model")
    answer = managed.manage("load", "cifar10")
    assert is_refused(answer, 400, "version 2", "no ONNX model")
    state, reason = managed.index()["cifar10", "2"]
    assert state == "UNAVAILABLE"
    assert "no ONNX model" in reason
    assert managed.status("/v2/models/cifar10/ready") == 200
    assert managed.status("/v2/models/cifar10/versions/2/ready") == 503
    shutil.copyfile(MODELS / "cifar10" / "1" / "model.onnx", folder / "model.onnx")
    assert managed.manage("load", "cifar10").status_code == 200
    described = managed.client.get("/v2/models/cifar10").json()
    assert described["versions"] == ["1", "2"]
    assert post(managed.client, {"inputs": [tensor(pictures(1))]}).json()["model_version"] == "2"
    shutil.rmtree(folder)
    eventually(lambda: ("cifar10", "2") not in managed.index())


@pytest.mark.parametrize("poll_s", ["0", "0.5"])
def test_what_one_worker_is_told_holds_in_all(tmp_path, poll_s):
    flags = ("--workers", "2", "--repository-poll-s", poll_s)
    for managed in start(tmp_path, *flags):

        def all_say(status: int, managed: Managed = managed) -> bool:
            return all(managed.status("/v2/models/mnist/ready") == status for _ in range(12))

        eventually(lambda: all_say(200), 60)
        for _ in range(2):
            assert managed.manage("unload").status_code == 200
            eventually(lambda: all_say(503))
            assert managed.index()["mnist", "1"] == ("UNAVAILABLE", "unloaded")
            time.sleep(0.6)
            assert all_say(503)
            assert managed.manage("load").status_code == 200
            eventually(lambda: all_say(200))
        assert infer(managed.client, pictures(1))["logits"].shape == (1, 10)

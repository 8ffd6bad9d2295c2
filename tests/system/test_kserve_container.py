"""The service as KServe starts it: its flags, its folders, and the YAML of our documentation."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from service.engine.scan import scan
from service.settings import Settings, load_settings
from tests.conftest import (
    ADARESNET,
    LOG_TO_READ,
    ROOT,
    Exported,
    Server,
    draw,
    free_port,
    wait_until_ready,
)
from tests.service.foreign_models import keras_like

PAGE = (ROOT / "docs" / "kserve.md").read_text()
DOCUMENTS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def document(kind: str) -> dict[str, Any]:
    (found,) = (one for one in DOCUMENTS if one["kind"] == kind)
    assert isinstance(found, dict)
    return found


def documented_args(name: str, models: Path, port: int) -> list[str]:
    """The arguments of the documented runtime, for another place."""
    (container,) = document("ServingRuntime")["spec"]["containers"]
    changes = {"{{.Name}}": name, "/mnt/models": str(models), "8080": str(port)}
    args = container["args"]
    for old, new in changes.items():
        assert any(old in arg for arg in args)
        args = [arg.replace(old, new) for arg in args]
    return [str(arg) for arg in args]


@contextlib.contextmanager
def started(args: list[str], folder: Path) -> Iterator[Server]:
    port = next(arg for arg in args if "port" in arg).partition("=")[2]
    log = folder / "server.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [ADARESNET, *args],
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**LOG_TO_READ, **os.environ},
        )
    server = Server(running, f"http://127.0.0.1:{port}", log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        running.terminate()
        running.wait(30)


def predict(server: Server, name: str, pixels: np.ndarray) -> dict[str, Any]:
    answer = httpx.post(
        f"{server.url}/v1/models/{name}:predict", json={"instances": [pixels.tolist()]}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["predictions"]
    assert isinstance(prediction, dict)
    return prediction


def test_the_documented_yaml_is_what_kserve_asks_for():
    spec = document("ServingRuntime")["spec"]
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    assert spec["protocolVersions"] == ["v1", "v2"]
    (port,) = container["ports"]
    for probe in ("readinessProbe", "livenessProbe"):
        get = container[probe]["httpGet"]
        assert get["port"] == port["containerPort"]
        assert get["path"].startswith("/v2/health/")
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in spec["volumes"]
    }
    command, *flags = container["args"]
    assert command == "serve"
    settings = load_settings([flag.replace("{{.Name}}", "flowers") for flag in flags], program="x")
    assert settings.port == port["containerPort"]
    assert settings.host == "0.0.0.0"
    model = document("InferenceService")["spec"]["predictor"]["model"]
    assert model["protocolVersion"] in spec["protocolVersions"]
    assert model["modelFormat"]["name"] in {one["name"] for one in spec["supportedModelFormats"]}
    for variable in model["env"]:
        assert variable["name"].removeprefix("ADARESNET_").lower() in Settings.model_fields


def test_the_documented_kinds_of_folder_are_found(tmp_path):
    for layout in ("model.onnx", "1/model.onnx", "2/model.onnx"):
        assert f"`{layout}`" in PAGE
        path = tmp_path / layout.replace("/", "-") / layout
        path.parent.mkdir(parents=True)
        path.touch()
        ((name, _, found),) = scan(tmp_path / layout.replace("/", "-"), "flowers")[0]
        assert (name, found) == ("flowers", path)


@pytest.fixture(params=["model.onnx", "4/model.onnx", "colors/1/model.onnx"])
def mounted(request: pytest.FixtureRequest, exported: Exported, tmp_path: Path) -> Iterator[Path]:
    """What a storage initializer may leave: a folder that nobody can write to."""
    models = tmp_path / "mnt" / "models"
    path = models / request.param
    path.parent.mkdir(parents=True)
    shutil.copyfile(exported.repository / "colors" / "1" / "model.onnx", path)
    folders = [models, *(one for one in models.rglob("*") if one.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield models
    for folder in folders:
        folder.chmod(0o755)


def test_it_serves_what_is_mounted_under_the_service_s_name(mounted, tmp_path, rng):
    before = sorted((path, path.stat().st_mtime_ns) for path in mounted.rglob("*"))
    args = documented_args("flowers", mounted, free_port())
    with started(args, tmp_path) as server:
        for name in ("red", "green"):
            assert predict(server, "flowers", np.asarray(draw(name, rng)))["label"] == name
        (model,) = httpx.get(f"{server.url}/v1/models").json()["models"]
        assert (model["name"], model["ready"]) == ("flowers", True)
        assert httpx.get(f"{server.url}/v1/models/flowers").json()["ready"] is True
        for probe in ("ready", "live"):
            assert httpx.get(f"{server.url}/v2/health/{probe}").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    assert before == sorted((path, path.stat().st_mtime_ns) for path in mounted.rglob("*"))


def test_a_bare_foreign_model_with_its_configuration(tmp_path, rng):
    models = tmp_path / "models"
    models.mkdir()
    weight, bias = keras_like(models / "model.onnx", shape=("n", 8, 8, 3))
    (models / "config.toml").write_text("labels = 'labels.txt'\n[output]\nkind = 'probabilities'\n")
    (models / "labels.txt").write_text("ant\nbee\ncat\ndog\n")
    # Of somebody else, and broken.
    (tmp_path / "config.toml").write_text("nonsense = 1")
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    scores = (pixels / 255).mean((0, 1)) @ weight + bias
    with started(documented_args("pets", models, free_port()), tmp_path) as server:
        assert predict(server, "pets", pixels)["class_id"] == scores.argmax()
        classes = httpx.get(f"{server.url}/v1/models/pets").json()["classes"]
    assert classes == ["ant", "bee", "cat", "dog"]

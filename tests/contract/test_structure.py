"""What the structure promises, independent of any one behaviour."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from service.api.errors import STATUS_OF, status_of
from service.engine import errors
from service.metadata import ModelMetadata
from service.settings import Settings
from tests.conftest import MODELS, ROOT, Exported

SNAPSHOT = ROOT / "docs" / "openapi.json"
CODE = sorted(
    path
    for folder in ("service", "training", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


def tree(kind: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in tree(child))]


@pytest.mark.parametrize("kind", tree(errors.ServiceError), ids=lambda kind: kind.__name__)
def test_every_engine_error_has_a_status_a_code_and_a_place_in_the_drawing(kind):
    status = status_of(kind.__new__(kind))
    assert status in {400, 404, 413, 415, 422, 500, 503, 504}
    client_fault = issubclass(kind, errors.InputError | errors.NotFoundError)
    assert (400 <= status < 500) is client_fault
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__
    assert set(STATUS_OF) <= set(tree(errors.ServiceError))


def test_codes_are_unique():
    codes = [kind.code for kind in tree(errors.ServiceError)]
    assert len(codes) == len(set(codes))


def test_the_service_starts_and_answers_without_torch(exported: Exported):
    script = f"""
import sys
for name in ("torch", "onnx", "training", "datasets"):
    sys.modules[name] = None  # importing it now fails
from fastapi.testclient import TestClient
from pathlib import Path
from service.api.app import create_app
from service.settings import Settings
import time
with TestClient(create_app(Settings(models=Path({str(exported.repository)!r})), print)) as client:
    for _ in range(200):
        if client.get("/readyz").status_code == 200:
            break
        time.sleep(0.05)
    body = b"P6 1 1 255 abc"
    assert client.post("/v1/classify", content=body).status_code == 200
assert not [name for name in sys.modules if name.split(".")[0] == "torch" and sys.modules[name]]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_openapi_snapshot_is_current(client):
    assert json.loads(SNAPSHOT.read_text()) == client.get("/openapi.json").json(), (
        "the API has changed: run 'make openapi' and read the difference"
    )


def test_metadata_schema_round_trips(exported: Exported):
    metadata = exported.result.metadata
    assert ModelMetadata.model_validate_json(metadata.model_dump_json()) == metadata
    newer = json.loads(metadata.model_dump_json()) | {"a_later_field": 1}
    assert ModelMetadata.model_validate(newer) == metadata


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_outgrows_its_reason(path):
    assert len(path.read_text().splitlines()) <= 400


def test_requirements_are_locked_and_name_no_registry():
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text, path
        if path.name.startswith("serve-"):
            assert "torch" not in text
            pinned = re.findall(r"^[a-z0-9-]+==", text, re.MULTILINE)
            assert pinned
            assert text.count("--hash=sha256:") >= len(pinned)


def test_compose_hands_on_every_setting():
    compose = (ROOT / "docker-compose.yml").read_text()
    handed_on = set(re.findall(r"^    ADARESNET_([A-Z0-9_]+):$", compose, re.MULTILINE))
    mean_something_else = {"HOST", "PORT", "MODELS", "DEVICE"}  # docs/docker.md says what
    assert handed_on == {name.upper() for name in Settings.model_fields} - mean_something_else


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "settings.md").read_text()
    for name in Settings.model_fields:
        assert f"`{name}`" in text, name


def test_shipped_models_are_small_and_complete():
    files = sorted(MODELS.glob("*/*/model.onnx"))
    assert files
    card = (MODELS / "README.md").read_text()
    for path in files:
        assert path.stat().st_size < 15e6
        assert path.parent.parent.name in card

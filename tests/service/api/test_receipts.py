"""``Server-Timing`` says the same on every way to a prediction."""

from __future__ import annotations

import base64
import io
import time

import httpx
import pytest

from tests.conftest import Exported, draw, serving


@pytest.fixture
def ways(rng) -> dict[str, tuple[str, dict[str, object]]]:
    buffer = io.BytesIO()
    draw("red", rng).save(buffer, "PNG")
    png = buffer.getvalue()
    pixels = {"name": "images", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": [7] * 768}
    return {
        "classify": ("/v1/classify", {"content": png}),
        "predict": (
            "/v1/models/colors:predict",
            {"json": {"instances": [{"b64": base64.b64encode(png).decode()}]}},
        ),
        "infer": ("/v2/models/colors/infer", {"json": {"inputs": [pixels]}}),
    }


def timing(answer: httpx.Response) -> dict[str, float]:
    parts = [part.strip().split(";dur=") for part in answer.headers["server-timing"].split(",")]
    return {name: float(milliseconds) for name, milliseconds in parts}


@pytest.mark.parametrize("way", ["classify", "predict", "infer"])
def test_where_the_time_went_is_said(client: httpx.Client, ways, way):
    path, body = ways[way]
    began_s = time.perf_counter()
    answer = client.post(path, **body)
    took_ms = (time.perf_counter() - began_s) * 1e3
    assert answer.status_code == 200, answer.text
    found = timing(answer)
    assert list(found) == ["decode", "queue", "run"]
    assert found["run"] > 0
    assert sum(found.values()) < took_ms
    assert answer.headers["x-model"] == "colors/1"
    assert answer.headers["x-request-id"]


def test_who_does_not_want_it_does_without(exported: Exported, tmp_path, ways):
    with (
        serving(exported.repository, tmp_path, "--no-receipts") as server,
        server.client() as client,
    ):
        for path, body in ways.values():
            answer = client.post(path, **body)
            assert answer.status_code == 200
            assert "server-timing" not in answer.headers

"""The README's own requests, as printed, against the shipped models."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.conftest import MODELS, ROOT, serving

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serving(MODELS, tmp_path_factory.mktemp("readme")) as server:
        yield server.url.rpartition(":")[2]


@pytest.fixture
def pictures(tmp_path):
    for name in ("cat.png", "digit.png"):
        Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 50).save(tmp_path / name)
    return tmp_path


def test_the_curl_request(port, pictures):
    (command,) = [block for block in blocks("sh") if block.startswith("curl")]
    result = subprocess.run(
        command.replace("8000", port), shell=True, cwd=pictures, capture_output=True, check=True
    )
    answer = json.loads(result.stdout)
    (printed,) = map(json.loads, blocks("json"))
    assert answer.keys() == printed.keys()
    assert answer["model"] == printed["model"]
    (ours,), (theirs,) = answer["results"], printed["results"]
    assert len(ours["predictions"]) == len(theirs["predictions"])
    assert ours["predictions"][0].keys() == theirs["predictions"][0].keys()


def test_the_python_request(port, pictures):
    (script,) = blocks("python")
    result = subprocess.run(
        [sys.executable, "-c", script.replace("8000", port)],
        cwd=pictures,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [name for name, _ in lines] == ["cat.png", "digit.png"]


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link

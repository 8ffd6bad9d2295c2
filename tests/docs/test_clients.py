"""The programs on the page about clients, as printed, against the shipped models."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import MODELS, ROOT, serving

PAGE = ROOT / "docs" / "clients.md"
NOT_HERE = {"go", "csharp"}
ELSEWHERE = {"typescript"}  # tests/system/clients/test_typescript.py, where the client is built
THEIRS = ROOT / ".venv-clients"  # clients whose requirements clash with ours
NEEDS = {"sh": "curl", "javascript": "node", "java": "java"}


class Snippet(NamedTuple):
    heading: str
    language: str
    code: str


def snippets() -> list[Snippet]:
    heading, found = "", []
    pattern = re.compile(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for title, language, code in pattern.findall(PAGE.read_text()):
        if title:
            heading = title
        else:
            found.append(Snippet(heading, language, code))
    return found


SNIPPETS = snippets()
CURL = [snippet.code for snippet in SNIPPETS if snippet.language == "sh"]
PROGRAMS = [one for one in SNIPPETS if one.language not in {"sh"} | NOT_HERE | ELSEWHERE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two real pictures of noise in soft colours, and a file that is none."""
    folder: Path = tmp_path_factory.mktemp("clients")
    rng = np.random.default_rng(3)
    for name in ("cat.jpg", "dog.jpg"):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    with serving(MODELS, folder) as server:
        yield server.url.removeprefix("http://")


@pytest.fixture(scope="module")
def expected(address, folder) -> tuple[str, float]:
    picture = (folder / "cat.jpg").read_bytes()
    answer = httpx.post(f"http://{address}/v1/classify", content=picture).json()
    best = answer["results"][0]["predictions"][0]
    return best["label"], best["probability"]


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


@pytest.mark.parametrize("command", CURL, ids=lambda text: text.splitlines()[-1][:60])
def test_a_line_with_curl(command: str, address, folder, monkeypatch):
    need("curl")
    monkeypatch.setenv("ADARESNET_API_KEY", "unused")
    here = str(Path(sys.executable).parent)  # its python3 has NumPy
    monkeypatch.setenv("PATH", os.pathsep.join((here, os.environ["PATH"])))
    words = command.replace("curl ", "curl -sS --fail-with-body ")
    script = words.replace("localhost:8000", address)
    printed = run(folder, "bash", "-euo", "pipefail", "-c", script)
    if "x-ndjson" in command:
        lines = [json.loads(line) for line in printed.splitlines()]
        assert [line["index"] for line in lines] == [0, 1]
        assert all(line["predictions"] for line in lines)
        return
    answer = json.loads(printed)
    if "/v2/" in command:
        assert [output["name"] for output in answer["outputs"]] == ["logits", "probabilities"]
    elif ":predict" in command:
        assert answer["predictions"][0]["label"]
    else:
        results = answer["results"]
        images = max(1, command.count("images=@"), 2 * ("pixels.npy" in command))
        assert len(results) == images
        assert results[0]["predictions"][0]["label"]
        assert ("error" in results[-1]) is ("notes.txt" in command)


@pytest.mark.parametrize(
    "snippet", PROGRAMS, ids=lambda snippet: f"{snippet.heading} {snippet.code.splitlines()[0]}"
)
def test_a_program(snippet: Snippet, address, folder, expected, tmp_path):
    code = snippet.code.replace("localhost:8000", address)
    if snippet.language == "python":
        printed = run_python(folder, code)
    else:
        name = {"javascript": "classify.mjs", "java": "Classify.java"}[snippet.language]
        need(NEEDS[snippet.language])
        (tmp_path / name).write_text(code)
        printed = run(folder, NEEDS[snippet.language], str(tmp_path / name))
    (line,) = printed.splitlines()
    label, probability = line.rsplit(" ", 1)
    assert label == expected[0]
    assert float(probability) == pytest.approx(expected[1], abs=1e-3)


def run_python(folder: Path, code: str) -> str:
    modules = re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        return run(folder, sys.executable, "-c", code)
    if not (THEIRS / ".installed").is_file():
        pytest.skip(f"{missing[0]} is not installed; 'make test-clients' does that")
    return run(folder, str(THEIRS / "bin" / "python"), "-c", code)


def test_every_snippet_is_run_or_named_as_one_that_is_not():
    assert {snippet.language for snippet in SNIPPETS} == {
        "sh", "python", "javascript", "java", *ELSEWHERE, *NOT_HERE,
    }  # fmt: skip
    assert len(CURL) > 8
    assert "except those in Go and C#" in " ".join(PAGE.read_text().split())


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text())
    assert len(links) > 4
    for link in links:
        assert (PAGE.parent / link).exists(), link

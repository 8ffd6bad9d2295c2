"""Every program on the page about the Python client, as printed, against the shipped models."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.conftest import MODELS, ROOT, serving

PAGE = (ROOT / "docs" / "python-client.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SAYS = ("says cifar10 1", "bad: image", "digit.png", "404 model_not_found - No model is named")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(MODELS, tmp_path_factory.mktemp("page")) as server:
        yield server.url


@pytest.fixture
def folder(tmp_path):
    picture = Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 50)
    (tmp_path / "pictures" / "below").mkdir(parents=True)
    for name in ("cat.png", "digit.png", "pictures/1.png", "pictures/below/2.png"):
        picture.save(tmp_path / name)
    (tmp_path / "pictures" / "bad.png").write_bytes(b"junk")
    return tmp_path


@pytest.mark.parametrize(("program", "says"), [*zip(PROGRAMS, SAYS, strict=True)], ids=SAYS)
def test_a_program_runs_as_printed(program, says, url, folder):
    assert "http://localhost:8000" in program
    done = subprocess.run(
        [sys.executable, "-c", program.replace("http://localhost:8000", url)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert done.stderr == ""

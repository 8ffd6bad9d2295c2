"""The client with nothing installed but httpx, and the package that says so."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import BytesParser

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, draw

# Imported under other names than the packages that bring them.
_MODULES = {"pillow": "PIL", "python_multipart": "python_multipart"}


def packages(*extras: str) -> set[str]:
    """Modules that these extras bring, or all of them, less those of the base."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [line for extra in extras or optional for line in optional[extra]]
    names = {re.split(r"[^A-Za-z0-9-]", line)[0].replace("-", "_").lower() for line in wanted}
    # httpx needs anyio itself.
    return {_MODULES.get(name, name) for name in names} - {"adaresnet", "anyio"}


def without(modules: set[str], script: str) -> str:
    """A script that runs where these can't be imported."""
    return f"import sys\nfor name in {sorted(modules)}:\n    sys.modules[name] = None\n{script}"


def python(script: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, **options
    )


def adaresnet(*args: object, missing: set[str]) -> subprocess.CompletedProcess[str]:
    script = f"from service.cli import main\nsys.exit(main({[str(arg) for arg in args]!r}))"
    return python(without(missing, script))


@pytest.fixture(scope="module")
def missing():
    found = packages()
    assert {"fastapi", "onnxruntime", "pydantic", "numpy", "PIL", "uvicorn", "orjson"} <= found
    return found


def test_the_clients_work_with_httpx_alone(server, missing, rng, tmp_path):
    path = tmp_path / "red.png"
    draw("red", rng).save(path)
    script = f"""
import asyncio
from service.client import AsyncClient, Client, ImageError
path = {str(path)!r}
with Client({server.url!r}) as client:
    client.wait_until_ready()
    assert client.classify(path).top.label == "red"
    results = list(client.classify_many([path, b"junk", "none.png"] * 30))
    assert [result.error is None for result in results] == [True, False, False] * 30
    assert client.models()[0].name == "colors"

async def main():
    async with AsyncClient({server.url!r}) as client:
        assert [r.top.label async for r in client.classify_many([path] * 3)] == ["red"] * 3

asyncio.run(main())
print("done")
"""
    done = python(without(missing, script))
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_the_command_line_works_with_httpx_alone(server, missing, rng, tmp_path):
    path, table = tmp_path / "red.png", tmp_path / "rows.csv"
    draw("red", rng).save(path)
    done = adaresnet("classify", path, "--url", server.url, missing=missing)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] == "red"
    done = adaresnet("classify", tmp_path, "--url", server.url, "--output", table, missing=missing)
    assert done.returncode == 0, done.stderr
    assert "red" in table.read_text()
    done = adaresnet("models", "--url", server.url, "--json", missing=missing)
    assert json.loads(done.stdout)[0]["name"] == "colors"


def test_every_command_says_which_extra_is_missing(missing, tmp_path):
    picture = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(picture)
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    arguments = {
        "classify": (picture,),
        "evaluate": (tmp_path,),
        "export": (tmp_path, "--name", "x"),
        "import": (picture, "--name", "x"),
        "inspect": ("cifar10",),
        "publish": (picture, "--name", "x"),
        "train": ("--data", tmp_path),
        "verify": ("cifar10",),
        "weights": (tmp_path,),
    }
    needless = {"load-test", "create-key"}  # commands that make do with the base
    for name, where in commands["adaresnet.commands"].items():
        if name in needless:
            continue
        done = adaresnet(name, *arguments.get(name, ()), missing=missing)
        assert done.returncode in (1, 2), (name, done.stderr)
        assert "Traceback" not in done.stderr, (name, done.stderr)
        (line,) = done.stderr.strip().splitlines()
        extra = "train" if where.startswith("training.") else "cpu"
        assert f"install adaresnet[{extra}]" in line, (name, line)
    done = adaresnet("classify", picture, "--output", tmp_path / "x.parquet", missing=missing)
    assert done.returncode == 2
    assert "adaresnet[parquet]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_needs_nothing(missing):
    done = adaresnet("--help", missing=missing)
    assert done.returncode == 0
    assert done.stderr == ""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in project["entry-points"]["adaresnet.commands"]:
        (line,) = re.findall(rf"^  {name} +(.*)$", done.stdout, re.MULTILINE)
        assert len(line.split()) > 3, name


def test_training_starts_with_its_extra_alone(missing):
    left = missing - packages("engine", "train")
    assert "fastapi" in left
    script = "import training.config, training.loop, training.data.dataset\nprint('done')"
    assert python(without(left, script)).stdout == "done\n"


def test_the_wheel_asks_for_httpx_and_no_more(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        fields = BytesParser().parsebytes(wheel.read(about))
    asked = fields.get_all("Requires-Dist", [])
    assert [line for line in asked if "extra ==" not in line] == ["httpx<1,>=0.28"]
    assert {"client", "cpu", "gpu", "parquet", "train"} <= set(fields.get_all("Provides-Extra", []))
    assert "service/py.typed" in names
    assert "service/client/client.py" in names


def test_importing_the_client_imports_little():
    script = "import service.client, sys; print(*sorted(sys.modules))"
    loaded = {name.partition(".")[0] for name in python(script).stdout.split()}
    assert not loaded & packages()


def test_arrays_and_pictures_need_no_import_of_ours(server, rng):
    """Where the caller has numpy and Pillow, and nothing else of what serves."""
    buffer = io.BytesIO()
    draw("red", rng).save(buffer, "PNG")
    script = f"""
import io
import numpy as np
from PIL import Image
from service.client import Client
picture = Image.open(io.BytesIO({buffer.getvalue()!r}))
with Client({server.url!r}) as client:
    labels = [r.top.label for r in client.classify_many([picture, np.asarray(picture)])]
print(*labels)
"""
    assert np.asarray(Image.open(buffer)).shape == (16, 16, 3)
    left = packages() - {"numpy", "PIL"}
    assert python(without(left, script)).stdout == "red red\n"

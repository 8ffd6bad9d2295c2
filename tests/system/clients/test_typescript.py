"""The TypeScript client, built with npm in a copy and run by node against a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server, draw
from tests.docs.test_clients import snippets

SOURCE = ROOT / "clients" / "typescript"
_LEFT = shutil.ignore_patterns("node_modules", "dist")
_UNREACHABLE = (
    "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH",
    "EHOSTUNREACH", "ERR_SOCKET_TIMEOUT", "E403", "E503",
)  # fmt: skip


def npm(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["npm", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def build(folder: Path) -> Path:
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    client = folder / "clients" / "typescript"
    shutil.copytree(SOURCE, client, ignore=_LEFT)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "openapi.json", folder / "docs")
    quick = ("--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=60000")
    installed = npm(client, "install", "--no-package-lock", *quick)
    if installed.returncode and any(word in installed.stderr for word in _UNREACHABLE):
        pytest.skip("the npm registry can't be reached")
    assert installed.returncode == 0, installed.stderr
    built = npm(client, "run", "build")
    assert built.returncode == 0, built.stdout + built.stderr
    return client


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory) -> Path:
    """Installed and built; skips the tests where node or the npm registry is missing."""
    folder: Path = tmp_path_factory.mktemp("typescript")
    return build(folder)


def test_it_answers_from_a_real_server(client_folder: Path, server: Server, tmp_path, rng):
    for name in ("red", "green"):
        draw(name, rng, (64, 48)).save(tmp_path / f"{name}.jpg")
    where = {"ADARESNET_URL": server.url, "ADARESNET_PICTURES": str(tmp_path)}
    done = npm(client_folder, "test", **where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
    assert "# pass 0" not in done.stdout


def test_the_program_of_the_page_about_clients(client_folder: Path, server: Server, tmp_path, rng):
    (snippet,) = (one for one in snippets() if one.language == "typescript")
    draw("green", rng, (64, 48)).save(tmp_path / "cat.jpg")
    package = tmp_path / "node_modules" / "adaresnet-client"
    package.parent.mkdir()
    package.symlink_to(client_folder)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "classify.ts").write_text(snippet.code.replace("http://localhost:8000", server.url))
    compiler = str(client_folder / "node_modules" / ".bin" / "tsc")
    options = ("--strict", "--module", "nodenext", "--target", "es2022")
    for command in ([compiler, *options, "classify.ts"], ["node", "classify.js"]):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[0] == "green"


def test_its_types_are_those_of_the_api(client_folder: Path):
    written = (client_folder / "src" / "schema.ts").read_text()
    generated = npm(client_folder, "run", "generate")
    assert generated.returncode == 0, generated.stderr
    assert written == (client_folder / "src" / "schema.ts").read_text(), (
        "the API has changed: run 'make typescript-client' and read the difference"
    )


def test_versions_are_pinned_and_no_registry_is_named():
    package = json.loads((SOURCE / "package.json").read_text())
    versions = package["dependencies"] | package["devDependencies"]
    assert all(version[0].isdigit() for version in versions.values())
    assert not (SOURCE / "package-lock.json").exists()
    assert not (SOURCE / ".npmrc").exists()

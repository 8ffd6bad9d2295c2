"""The commands of docs/security.md, as printed."""

from __future__ import annotations

import json
import os
import re
import subprocess

from PIL import Image

from tests.conftest import ADARESNET, MODELS, ROOT, serving

TEXT = (ROOT / "docs" / "security.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


def shell(script: str, folder, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{ADARESNET.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **variables}
    return subprocess.run(
        script, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=True
    )


def test_making_keys_and_using_them(tmp_path):
    (making,) = [block for block in BLOCKS if "create-key" in block]
    (asking,) = [block for block in BLOCKS if block.startswith("curl")]
    *create, serve = making.splitlines()
    assert serve == "adaresnet serve --api-keys-file keys.toml"
    told = shell("\n".join(create), tmp_path)
    keys = re.findall(r"ada_\S+", told.stderr)
    assert len(keys) == 2
    assert not told.stdout
    lines = (tmp_path / "keys.toml").read_text()
    assert not [key for key in keys if key in lines]
    Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 50).save(tmp_path / "cat.png")
    with serving(MODELS, tmp_path, "--api-keys-file", str(tmp_path / "keys.toml")) as server:
        script = asking.replace("localhost:8000", server.url.removeprefix("http://"))
        for line in script.splitlines():
            assert json.loads(shell(line, tmp_path, KEY=keys[0]).stdout)["model"] == "cifar10"
            refused = json.loads(shell(line, tmp_path, KEY="wrong").stdout)
            assert refused["code"] == "unauthorized"

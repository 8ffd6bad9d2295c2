"""What the service runs, and on which machine, is nobody else's business."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.conftest import ADARESNET, MODELS, draw


@pytest.mark.parametrize("command", ["classify", "doctor"])
def test_onnx_runtime_keeps_no_records_and_sends_none(command, tmp_path, rng):
    # Its telemetry begins with an id and a queue in the home folder.
    home, picture = tmp_path / "home", tmp_path / "picture.png"
    home.mkdir()
    draw("red", rng).save(picture)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ORT_")}
    subprocess.run(
        [ADARESNET, command, "--models", MODELS, *([picture] if command == "classify" else [])],
        env={**environ, "HOME": str(home), "TMPDIR": str(home)},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert not [path for path in home.rglob("*") if path.is_file()]

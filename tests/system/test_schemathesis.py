"""The service does what its OpenAPI document says: Schemathesis finds nothing to the contrary."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

_SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


def test_schemathesis_finds_no_violation(server):
    result = subprocess.run(
        [
            _SCHEMATHESIS, "run", f"{server.url}/openapi.json", "--max-examples", "8",
            "--seed", "7", "--generation-deterministic", "--no-color",
        ],
        cwd=ROOT,  # whose schemathesis.toml says what no schema can
        capture_output=True,
        text=True,
        timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in result.stdout

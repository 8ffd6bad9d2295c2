"""An environment for each peer, made from its pinned requirements and kept until they change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from comparison.processes import ServerError

PEERS = Path(__file__).parent.parent / "peers"
_NICER = 10  # pip does not take the cores from whatever else runs


def environment(peer: str, kept_in: Path) -> Path:
    """Make a peer's environment, or take the one that is there.

    Args:
        peer: Folder below ``peers`` with its ``requirements.txt``.
        kept_in: Folder of all environments.

    Returns:
        Its folder; programs are in ``bin``.

    Raises:
        ServerError: It can't be installed.
    """
    requirements = PEERS / peer / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    folder = kept_in / peer / "venv"
    stamp = folder / "requirements.sha256"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    print(f"installing {peer} into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The base interpreter: an environment made from within another would point into that one.
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    _call([str(base if base.exists() else sys.executable), "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    _call([*pip, "--quiet", "-r", str(requirements)])
    stamp.write_text(wanted)
    return folder


def versions(folder: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of packages in an environment, of those that are there."""
    script = (
        "import json, sys; from importlib.metadata import distributions;"
        " found = {one.name.lower(): one.version for one in distributions()};"
        " print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))"
    )
    command = [str(folder / "bin" / "python"), "-c", script, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _call(command: list[str]) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_lower_priority,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ServerError(f"can't be installed: {(lines or [done.stderr.strip()[-300:]])[0]}")


def _lower_priority() -> None:
    os.nice(_NICER)

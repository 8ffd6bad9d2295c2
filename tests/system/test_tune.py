"""``adaresnet tune`` against the real service: the file that it writes is served with."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import httpx

from service.settings import load_settings
from service.tuning.processes import family
from service.tuning.trials import TUNED
from tests.conftest import ADARESNET, Exported, draw, serving

# What takes time and is not looked at here; the search itself has tests of its own.
_QUICK = ("--seconds", "0.2", "--connections", "4", "--no-probe-models", "--log-level", "error")
_FIXED = ("--workers", "1", "--threads", "1", "--max-batch-size", "8", "--instances", "1")


def command(exported: Exported, *args: object) -> list[str]:
    return [str(ADARESNET), "tune", "--models", str(exported.repository), *map(str, args)]


def tune(exported: Exported, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(exported, *_QUICK, *args),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_file_that_is_written_is_served_with(exported: Exported, tmp_path, rng, monkeypatch):
    output, pictures = tmp_path / "tuned.toml", tmp_path / "pictures"
    pictures.mkdir()
    draw("red", rng).save(pictures / "red.png")
    done = tune(exported, *_FIXED, "--memory", "4GiB", "--images", pictures, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "chosen" in done.stdout
    assert f"wrote {output}" in done.stdout
    unwrapped = re.sub(r"\n# +", " ", output.read_text())
    assert re.search(r"colors version 1, SHA-256 [0-9a-f]{64}", unwrapped)
    monkeypatch.setenv("ADARESNET_CONFIG", str(output))
    settings = load_settings([], program="x")
    assert settings.models == exported.repository.resolve()
    assert [getattr(settings, name) for name in TUNED] == [1, 1, 8, 1]
    picture = (pictures / "red.png").read_bytes()
    with serving(exported.repository, tmp_path) as server:
        assert httpx.post(f"{server.url}/v1/classify", content=picture).status_code == 200


def test_where_nothing_fits_it_says_by_how_much_and_writes_nothing(exported: Exported, tmp_path):
    output = tmp_path / "tuned.toml"
    limits = ("--p99", "1us", "--memory", "1MiB")
    # What keeps others out is left out meanwhile; so these files need not be there.
    access = ("--tls-certificate", "no.pem", "--tls-key", "no.pem", "--api-keys-file", "no.toml")
    done = tune(exported, *_FIXED, *limits, *access, "--output", output, "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert [re.sub(r"[0-9.]+", "N", text) for text in found["misses"]] == [
        "pN is N ms, N ms too much",
        "memory is N MiB, N MiB too much",
    ]
    assert found["written"] is None
    assert found["fitting_load"] is None
    assert [level["connections"] for level in found["candidates"][0]["levels"]] == [4, 2, 1]
    assert not output.exists()


def test_a_picture_that_is_refused_is_named(exported: Exported, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    done = tune(exported, "--images", tmp_path / "notes.txt", "--output", tmp_path / "tuned.toml")
    assert done.returncode == 2
    assert "notes.txt is refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_that_can_not_be_loaded_is_told_at_once(tmp_path):
    (folder := tmp_path / "models" / "broken" / "1").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"no model")
    words = [ADARESNET, "tune", "--models", tmp_path / "models", "--output", tmp_path / "a.toml"]
    done = subprocess.run(
        [*words, *_QUICK], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "the service: is not ready: there is no model; broken version 1: " in line


def test_a_stop_ends_the_service_that_is_measured(exported: Exported, tmp_path):
    slow = ("--seconds", "30", "--output", tmp_path / "tuned.toml")
    process = subprocess.Popen(
        command(exported, *_FIXED, *_QUICK[2:], *slow), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "colors version 1" in process.stderr.readline()
    while len(started := set(family(process.pid)) - {process.pid}) < 2:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]

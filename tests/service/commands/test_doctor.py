"""``adaresnet doctor`` finds what keeps the service from working, and says what helps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from service.engine.session import cuda_built_in
from tests.conftest import ADARESNET, MODELS, Exported


def doctor(*argv: object, **environment: str) -> tuple[int, dict[str, Any], str]:
    """In a process of its own: what it looks at belongs to the process."""
    result = subprocess.run(
        [str(ADARESNET), "doctor", "--json", *map(str, argv)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, json.loads(result.stdout or "{}"), result.stderr


def about(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [each for each in report["findings"] if each["about"] == name]
    assert len(found) == 1, report["findings"]
    return found[0]


def problems(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in report["findings"] if each["state"] == "problem"]


def test_all_is_well_with_the_shipped_models():
    status, report, said = doctor("--models", MODELS, "--device", "cpu")
    assert status == 0, report
    assert not said
    assert not problems(report)
    for name in ("model cifar10/1", "model mnist/1"):
        found = about(report, name)
        assert found["state"] == "ok"
        assert "CPUExecutionProvider" in found["found"]
        assert "12 golden images pass" in found["found"]
    for name in ("CPUs", "memory", "open files", "temporary folder", "ONNX Runtime"):
        about(report, name)


def test_it_reads_well_without_json(exported: Exported):
    result = subprocess.run(
        [str(ADARESNET), "doctor", "--models", exported.repository, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0
    assert "model colors/1" in result.stdout
    assert f"models = {exported.repository}  (flag)" in result.stdout


def test_every_problem_has_its_fix(exported: Exported, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(exported.repository, models)
    damaged = models / "damaged" / "1"
    damaged.mkdir(parents=True)
    data = bytearray((models / "colors" / "1" / "model.onnx").read_bytes())
    (damaged / "model.onnx").write_bytes(data[: len(data) // 2])
    (models / "colors" / "latest").mkdir()
    status, report, said = doctor("--models", models, "--device", "cpu")
    assert status == 1
    assert "problems: 1" in said
    assert about(report, "model colors/1")["state"] == "ok"
    assert about(report, "model damaged/1")["state"] == "problem"
    assert all(each["fix"] for each in report["findings"] if each["state"] != "ok")
    assert any(str(models / "colors" / "latest") in each["found"] for each in report["findings"])


def test_an_empty_or_missing_repository_is_a_problem(tmp_path):
    for models in (tmp_path, tmp_path / "missing"):
        status, report, _ = doctor("--models", models, "--device", "cpu")
        assert status == 1
        assert "--models" in about(report, "model repository")["fix"]


def test_it_says_where_each_setting_came_from(exported: Exported, tmp_path):
    config = tmp_path / "adaresnet.toml"
    config.write_text("max_images = 7\nport = 9000\n")
    _, report, _ = doctor(
        "--models", exported.repository, "--max-batch-size=3", "--device", "cpu",
        ADARESNET_CONFIG=str(config), ADARESNET_PORT="9001",
    )  # fmt: skip
    origins = {each["name"]: (each["value"], each["source"]) for each in report["settings"]}
    assert origins["max_images"] == ("7", str(config))
    assert origins["port"] == ("9001", "ADARESNET_PORT")
    assert origins["max_batch_size"] == ("3", "flag")
    assert origins["workers"] == ("1", "default")


def test_a_wrong_setting_is_a_problem_and_the_rest_is_still_examined(exported: Exported):
    status, report, _ = doctor("--device", "cpu", ADARESNET_MAX_IMAGES="many")
    assert status == 1
    assert "max_images is 'many'" in about(report, "settings")["found"]
    assert about(report, "CPUs")


def test_a_folder_that_cannot_be_written_is_found(exported: Exported):
    status, report, _ = doctor(
        "--models",
        exported.repository,
        "--device",
        "cpu",
        TMPDIR="/proc",
        TEMP="/proc",
        TMP="/proc",
    )
    found = about(report, "temporary folder")
    if found["state"] == "ok":  # tempfile has found another that can
        assert "/proc" not in found["found"]
    else:
        assert status == 1


@pytest.mark.skipif(cuda_built_in(), reason="the GPU build is installed")
def test_a_demanded_gpu_that_is_not_there_is_a_problem(exported: Exported):
    status, report, _ = doctor("--models", exported.repository, "--device", "cuda")
    assert status == 1
    assert "adaresnet[gpu]" in about(report, "CUDA provider")["fix"]
    assert "--gpus all" in about(report, "GPUs")["fix"]
    assert about(report, "model colors/1")["state"] == "problem"


def test_what_keeps_the_service_from_starting_is_found(exported: Exported):
    status, report, said = doctor(
        *("--models", exported.repository, "--device", "cpu", "--default-model", "nope"),
        *("--tls-certificate", "/nonexistent", "--jwt-issuer", "https://x.example"),
        *("--cors-origins", "foo/bar", "--otlp-endpoint", "ftp://x"),
        ADARESNET_PROT="1",
    )
    assert status == 1
    assert "problems: 5" in said
    found = [each["found"] for each in problems(report)]
    for name in ("tls_key", "jwt_audience", "cors_origins", "otlp_endpoint", "'nope'"):
        assert sum(name in text for text in found) == 1, name
    assert "colors" in about(report, "default model")["fix"]
    warnings = [each["found"] for each in report["findings"] if each["state"] == "warning"]
    assert "ADARESNET_PROT is no setting and is ignored; did you mean ADARESNET_PORT?" in warnings


def test_it_runs_where_the_system_tells_less(exported: Exported):
    """As on Windows."""
    flags = ["--models", str(exported.repository), "--device", "cpu"]
    script = f"""
import os, sys
sys.modules["resource"] = None  # importing it now fails
del os.sysconf
from service.commands.doctor import doctor
sys.exit(doctor({flags}))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "model colors/1" in result.stdout


def test_an_unknown_flag_is_a_problem_with_its_right_name():
    status, report, _ = doctor("--max-image", "7", "--device", "cpu")
    assert status == 1
    assert "--max-images" in about(report, "settings")["found"]


def test_a_report_does_not_tell_keys(exported: Exported):
    line = 'app = {hash = "sha256:' + 64 * "0" + '", scopes = ["predict"]}'
    _, report, _ = doctor(
        "--models", exported.repository, "--device", "cpu", ADARESNET_API_KEYS=line
    )
    assert "0" * 64 not in json.dumps(report)
    origins = {each["name"]: each for each in report["settings"]}
    assert origins["api_keys"]["source"] == "ADARESNET_API_KEYS"

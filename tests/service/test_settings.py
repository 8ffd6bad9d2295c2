from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings, load_settings


def test_flag_beats_environment_beats_file_beats_default(monkeypatch, tmp_path):
    config = tmp_path / "service.toml"
    config.write_text("max_batch_size = 3\nmax_images = 4\nport = 1\n")
    monkeypatch.setenv("ADARESNET_CONFIG", str(config))
    monkeypatch.setenv("ADARESNET_PORT", "2")
    monkeypatch.setenv("ADARESNET_MAX_IMAGES", "5")
    settings = load_settings(["--port", "9"], program="x")
    assert (settings.port, settings.max_images, settings.max_batch_size) == (9, 5, 3)
    assert settings.threads == Settings().threads


def test_every_setting_has_a_flag_and_an_environment_twin(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        load_settings(["--help"], program="x")
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    monkeypatch.setenv("ADARESNET_DEVICE", "cpu")
    assert load_settings([], program="x").device == "cpu"


def test_wrong_values_and_unknown_keys_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="port"):
        load_settings(["--port", "70000"], program="x")
    with pytest.raises(ValueError, match=r"worker_timeout_s.*must be 0 or at least 2"):
        load_settings(["--worker-timeout-s", "1"], program="x")
    assert load_settings(["--worker-timeout-s", "0"], program="x").worker_timeout_s == 0
    with pytest.raises(ValueError, match="there is no flag --no-such-flag"):
        load_settings(["--no-such-flag", "1"], program="x")
    config = tmp_path / "service.toml"
    config.write_text("prot = 1\n")
    monkeypatch.setenv("ADARESNET_CONFIG", str(config))
    with pytest.raises(ValueError, match="prot"):
        load_settings([], program="x")
    monkeypatch.setenv("ADARESNET_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ValueError, match="no file"):
        load_settings([], program="x")


@pytest.mark.parametrize(
    "name",
    ["default_model", "models", "tensorrt_cache", "api_keys_file", "tls_certificate", "tls_key"],
)
def test_an_empty_text_is_not_taken_for_a_name_or_a_path(monkeypatch, name):
    """As templates write a variable that has no value."""
    monkeypatch.setenv(f"ADARESNET_{name.upper()}", "")
    with pytest.raises(ValueError, match=f"^{name} is '': it is empty; leave it out$"):
        load_settings([], program="x")
    monkeypatch.delenv(f"ADARESNET_{name.upper()}")
    with pytest.raises(ValueError, match=name):
        load_settings([f"--{name.replace('_', '-')}="], program="x")


def test_no_keys_are_not_the_same_as_nobody_is_asked(monkeypatch):
    monkeypatch.setenv("ADARESNET_API_KEYS", "")
    assert load_settings([], program="x").api_keys == ""


def test_the_flags_of_kserve_are_other_names_of_ours(monkeypatch):
    flags = ["--model_name=cats", "--model_dir=/mnt/models", "--http_port=8080"]
    settings = load_settings(flags, program="x")
    assert (settings.model_name, settings.port) == ("cats", 8080)
    assert settings.models == Path("/mnt/models")
    assert settings.host == "0.0.0.0"
    for flag in ("--model-dir=x", "--http-port=1", "--model_dir", "--http_port"):
        words = [flag] if "=" in flag else [flag, "1"]
        assert load_settings(words, program="x").host == "0.0.0.0"
    assert load_settings(["--model-name", "cats"], program="x").host == "127.0.0.1"
    assert load_settings([*flags, "--host", "127.0.0.1"], program="x").host == "127.0.0.1"
    monkeypatch.setenv("ADARESNET_HOST", "::1")
    assert load_settings(flags, program="x").host == "::1"


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a", "x" * 101])
def test_a_model_name_must_be_one(name):
    with pytest.raises(ValueError, match="model_name"):
        load_settings([f"--model_name={name}"], program="x")

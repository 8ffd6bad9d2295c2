from __future__ import annotations

import pytest

from service.doctor.origins import find_origins
from service.settings import load_settings


def sources(*argv: str) -> dict[str, tuple[str, str]]:
    settings = load_settings(list(argv), program="x")
    return {each.name: (each.value, each.source) for each in find_origins(settings, list(argv))}


def test_flags_go_by_every_name_that_they_have(monkeypatch):
    monkeypatch.setenv("ADARESNET_MODELS", "elsewhere")
    monkeypatch.setenv("ADARESNET_PORT", "9")
    found = sources("--model-dir", "here", "--http_port=8", "--no-receipts", "--no-access-log")
    assert found["models"] == ("here", "flag")
    assert found["port"] == ("8", "flag")
    assert found["receipts"] == found["access_log"] == ("False", "flag")
    assert found["host"] == ("0.0.0.0", "flag")  # by --model-dir
    assert found["workers"] == ("1", "default")


def test_a_flag_with_the_default_s_value_is_one():
    assert sources("--port=8000")["port"] == ("8000", "flag")


@pytest.mark.parametrize("variable", ["ADARESNET_MAX_IMAGES", "adaresnet_max_images"])
def test_variables_are_named_as_they_are_spelt(monkeypatch, variable):
    monkeypatch.setenv(variable, "7")
    assert sources()["max_images"] == ("7", variable)


def test_a_variable_that_is_ignored_is_no_source(monkeypatch, tmp_path):
    monkeypatch.setenv("ADARESNET_PORT", "tcp://10.0.0.7:8000")
    assert sources()["port"] == ("8000", "default")
    config = tmp_path / "adaresnet.toml"
    config.write_text("PORT = 9000\nMax_Images = 3\n")
    monkeypatch.setenv("ADARESNET_CONFIG", str(config))
    assert sources()["port"] == ("9000", str(config))
    assert sources()["max_images"] == ("3", str(config))

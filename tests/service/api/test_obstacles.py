from __future__ import annotations

from pathlib import Path

import pytest

from service.api.obstacles import find_obstacles
from service.settings import Settings


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"otlp_endpoint": "ftp://x"}, "otlp_endpoint is 'ftp://x'"),
        ({"otlp_endpoint": "http://[abc"}, "otlp_endpoint is 'http://[abc'"),
        ({"api_keys": "garbage"}, "api_keys: no TOML"),
        ({"api_keys_file": Path("/none.toml")}, "/none.toml: No such file"),
        ({"jwt_issuer": "https://id.example.org"}, "jwt_issuer needs jwt_audience"),
        ({"jwt_issuer": "http://[abc", "jwt_audience": "x"}, "jwt_issuer is 'http://[abc'"),
        ({"rate_limit_images": 1}, "rate_limit_images"),
        ({"cors_origins": "foo/bar"}, "cors_origins: 'foo/bar'"),
        ({"tls_key": Path("key.pem")}, "tls_certificate and tls_key need each other"),
    ],
)
def test_what_ends_a_start_is_one_line_that_names_the_setting(settings, line):
    (found,) = find_obstacles(Settings(**settings))
    assert line in found
    assert "\n" not in found


def test_all_of_it_is_found_at_once():
    settings = Settings(otlp_endpoint="x", api_keys="x", cors_origins="x", tls_key=Path("x"))
    assert len(list(find_obstacles(settings))) == 4


def test_nothing_is_in_the_way_of_the_defaults():
    assert list(find_obstacles(Settings())) == []


def test_a_variable_of_opentelemetry_is_named(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318")
    (found,) = find_obstacles(Settings())
    assert found.startswith("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is 'collector:4318'")

from __future__ import annotations

import re

import pytest

from service.setting_names import nearest, refused_flags, strays
from service.settings import Settings, load_settings

NAMES = list(Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("prot", "port"),
        ("max-batchsize", "max_batch_size"),
        ("WORKER", "workers"),
        ("batch_size", "max_batch_size"),
        ("repository_poll", "repository_poll_s"),
        ("xyzzy", None),
        ("s", None),
    ],
)
def test_the_nearest_name(name, meant):
    assert nearest(name, NAMES) == meant


def test_variables_that_are_no_settings_are_named():
    found = strays(
        ["PATH", "ADARESNET_PORT", "ADARESNET_PROT", "adaresnet_wrkers", "ADARESNET_XYZZY"], NAMES
    )
    assert found == [
        "ADARESNET_PROT is no setting and is ignored; did you mean ADARESNET_PORT?",
        "ADARESNET_XYZZY is no setting and is ignored",
        "adaresnet_wrkers is no setting and is ignored; did you mean ADARESNET_WORKERS?",
    ]


def test_what_kubernetes_says_of_a_service_is_none_of_ours(monkeypatch):
    told = {
        "ADARESNET_PORT": "tcp://10.0.0.7:8000",
        "ADARESNET_SERVICE_HOST": "10.0.0.7",
        "ADARESNET_SERVICE_PORT": "8000",
        "ADARESNET_SERVICE_PORT_HTTP": "8000",
        "ADARESNET_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "ADARESNET_PORT_8000_TCP_ADDR": "10.0.0.7",
    }
    assert strays(told, NAMES) == []
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert load_settings([], program="x").port == 8000
    assert load_settings(["--port", "9"], program="x").port == 9


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--prot", "1"], "there is no flag --prot; did you mean --port?"),
        (["--max-batchsize=3"], "there is no flag --max-batchsize; did you mean --max-batch-size?"),
        (["--xyzzy"], "there is no flag --xyzzy"),
        (["models"], "'models' is no flag; settings are given as --name value"),
        (["--port"], "argument --port"),
    ],
)
def test_unknown_flags_get_one_line(flags, line):
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        load_settings(flags, program="x")
    assert "\n" not in str(error.value)


def test_other_complaints_of_the_parser_are_one_line():
    assert refused_flags("error parsing CLI: a\n b", NAMES) == "a b"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("max_batchsize = 1", "there is no setting max_batchsize; did you mean max_batch_size?"),
        ("[serve]\nport = 1", "there is no setting serve"),
        ("port = 70000", "port is 70000: Input should be less than or equal to 65535"),
        ("port = 'a'", "port is 'a': Input should be a valid integer"),
        ("repository_poll_s = inf", "repository_poll_s is inf: Input should be a finite number"),
        ("request_timeout_s = nan", "request_timeout_s is nan"),
        ("port = ", "is no TOML"),
        ("\udcff", "is no TOML"),
    ],
)
def test_a_wrong_file_gets_one_line(tmp_path, monkeypatch, text, line):
    config = tmp_path / "service.toml"
    config.write_bytes(text.encode(errors="surrogateescape"))
    monkeypatch.setenv("ADARESNET_CONFIG", str(config))
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        load_settings([], program="x")
    assert "\n" not in str(error.value)

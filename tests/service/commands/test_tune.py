"""What ``adaresnet tune`` refuses before it measures anything."""

from __future__ import annotations

import pytest

from service.commands.tune import _fixed, tune
from service.settings import load_settings


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--p99", "20"], "like 20ms"),
        (["--p99", "0s"], "like 20ms"),
        (["--memory", "200"], "like 200MiB"),
        (["--connections", "0"], "from 1"),
        (["--connections", "5000"], "5000"),
        (["--px", "big"], "big"),
        (["--seconds", "0"], "seconds"),
        (["--models", "/nowhere"], "/nowhere"),
        (["--images", "/nowhere"], "/nowhere"),
        (["--output", "/nowhere/a.toml"], "/nowhere"),
        (["--device", "abacus"], "abacus"),
        (["--threads", "-1"], "threads"),
    ],
)
def test_bad_values_end_in_one_line_and_status_2(flags, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = [] if "--models" in flags else ["--models", str(tmp_path)]
    try:
        status = tune([*models, *flags])
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr().err
    assert status == 2
    assert len(said.splitlines()) == 1
    assert said.startswith("adaresnet tune: ")
    assert word in said


def test_a_file_that_is_there_is_not_written_over(capsys, tmp_path):
    there = tmp_path / "there.toml"
    there.write_text("port = 1\n")
    assert tune(["--models", str(tmp_path), "--output", str(there)]) == 2
    assert "--force" in capsys.readouterr().err
    assert there.read_text() == "port = 1\n"


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["--workers=2", "--max-batch-size", "8"], {"workers", "max_batch_size"}),
        (["--device", "cuda"], set()),
        (["--device", "tensorrt:1", "--threads", "1"], {"threads", "max_batch_size"}),
    ],
)
def test_what_is_given_is_not_tuned_nor_what_engines_were_built_for(flags, kept):
    assert _fixed(flags, load_settings(flags, program="x")) == kept

"""The settings file, from made-up measurements, through the settings that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings, load_settings
from service.tuning.report import as_json, misses, table
from service.tuning.search import Outcome, Search
from service.tuning.space import Machine as Cpus
from service.tuning.space import alternatives
from service.tuning.trials import TUNED, Candidate, Limits, Trial
from service.tuning.write import Circumstances, settings_file
from tests.service.tuning.made_up import MIB, Machine, trial

LIMITS = Limits(p99_s=0.02, memory_bytes=250 * MIB)
ABOUT = Circumstances("adaresnet tune --p99 20ms", "2026-11-21", {"machine": "a\nport = 1"})


def formula(one: Candidate) -> Trial:
    if one.max_batch_size == 16:
        return Trial(failure="ended with status 1: no\nport = 2")
    return trial(100 * (1 + one.workers + (one.threads == 1)), 0.005, 60 * one.workers)


@pytest.fixture
def outcome() -> Outcome:
    return Search(Machine(formula), LIMITS).run(
        Candidate(), TUNED, lambda setting, one: alternatives(setting, one, Cpus(4))
    )


def loaded(text: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    path.write_text(text)
    monkeypatch.setenv("ADARESNET_CONFIG", str(path))
    return load_settings([], program="x")


def test_it_loads_with_what_was_chosen_and_what_was_given(outcome, tmp_path, monkeypatch):
    given = Settings(models=tmp_path / 'a "b" \\ \x7f é', access_log=False, request_timeout_s=2.5)
    text = settings_file(given, outcome, LIMITS, ABOUT)
    settings = loaded(text, tmp_path / "adaresnet.toml", monkeypatch)
    chosen = {name: getattr(settings, name) for name in TUNED}
    assert chosen == {"workers": 4, "threads": 1, "max_batch_size": 0, "instances": 0}
    assert dict(settings) == dict(given.model_copy(update=chosen))


def test_its_comments_have_the_figures(outcome):
    text = settings_file(Settings(), outcome, LIMITS, ABOUT)
    for words in (
        "Written by 'adaresnet tune --p99 20ms' on 2026-11-21.",
        "p99 at most 20.0 ms, memory (RSS) at most 250 MiB",
        "machine: a port = 1",
        "Clearly better than what was tried beside it.",
        "#   4: 2.50 times (2.50 to 2.50) its images/s, p99 5.00 ms, 240 MiB",
        "1: 200 images/s (200 to 200), p99 5.00 ms, 60 MiB",
        "16: failed; ended with status 1",
        "Nothing that was tried beside 0 was clearly better.",
        "chosen",
    ):
        assert words in text
    for line in text.splitlines():
        assert len(line) <= 200
        assert line == "" or line.startswith("#") or line.split(" = ")[0] in Settings.model_fields


def test_misses_are_said_with_their_amounts(outcome):
    tight = Limits(p99_s=0.004, memory_bytes=200 * MIB)
    assert misses(outcome.best, tight) == [
        "p99 is 5.00 ms, 1.00 ms too much",
        "memory is 240 MiB, 40 MiB too much",
    ]
    assert misses(outcome.best, LIMITS) == []
    assert any("too much" in line for line in table(outcome, tight))


def test_the_same_for_programs(outcome):
    document = as_json(outcome, LIMITS)
    assert document["fits"] is True
    assert document["chosen"]["workers"] == 4
    assert len(document["candidates"]) == len(outcome.board)
    failed = next(one for one in document["candidates"] if one["failure"])
    assert failed["levels"] == []
    assert failed["fits"] is False

import pytest
from comparison.goals import goals
from comparison.results import CEILINGS, Results, Spread, best_of, ratios
from comparison.trial import Outcome


def _results(*rounds: dict[str, dict[str, float]]) -> Results:
    results = Results()
    for number, servers in enumerate(rounds):
        for name, figures in servers.items():
            results.add(number, "resnet20", name, Outcome(dict(figures)))
    return results


def _found(results: Results, text: str):
    every = goals(results, "ours", ["plain", "pytriton"], ["plain"])
    return next((goal for goal in every if text in goal.text), None)


def test_ratios_are_taken_within_a_round_and_skip_what_is_missing():
    assert ratios([2.0, 9.0, None], [1.0, 3.0, 1.0]) == [2.0, 3.0]
    assert ratios([1.0], [0.0]) == []


def test_the_best_is_chosen_in_each_round():
    assert best_of([[1.0, None, 5.0], [2.0, None, 4.0]]) == [2.0, None, 5.0]
    assert best_of([]) == []


def test_a_goal_is_decided_by_the_median_over_rounds():
    key = "jpeg 1x32 rate"
    rounds = [{"ours": {key: rate}, "plain": {key: 100.0}} for rate in (150.0, 210.0, 300.0)]
    goal = _found(_results(*rounds), "32 connections: images/s / best Python server")
    assert goal.found == Spread(2.1, 1.5, 3.0)
    assert goal.met


def test_what_is_slower_than_wanted_is_missed():
    key = "jpeg 1x64 rate"
    results = _results({"ours": {key: 100.0}, CEILINGS: {"bound rate": 200.0}})
    goal = _found(results, "64 connections: images/s / bound")
    assert goal.found.median == pytest.approx(0.5)
    assert not goal.met


def test_latency_and_memory_must_be_below():
    figures = {"rss_bytes": 140 * 2**20, "start_s": 1.6, "jpeg 1x32 p99_ms": 20.0}
    results = _results({"ours": figures, "plain": {"jpeg 1x32 p99_ms": 80.0}})
    assert _found(results, "RSS").met
    assert not _found(results, "start").met
    assert _found(results, "p99 / plain").found.median == pytest.approx(0.25)


def test_what_was_not_measured_is_no_row():
    assert _found(_results({"ours": {"start_s": 1.0}}), "pytriton") is None

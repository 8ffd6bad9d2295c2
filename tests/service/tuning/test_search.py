"""The search, on measurements that are made up."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from service.tuning.search import CONFIRMATION, Outcome, Search, SearchError, fitting_load, judge
from service.tuning.space import Machine as Cpus
from service.tuning.space import alternatives
from service.tuning.trials import TUNED, Candidate, Level, Limits, Trial
from tests.service.tuning.made_up import MIB, Machine, trial

DEFAULT = Candidate()
NO_LIMITS = Limits()


def search(machine: Machine, limits: Limits = NO_LIMITS, cpus: int = 4) -> Outcome:
    return Search(machine, limits).run(
        DEFAULT, TUNED, lambda setting, one: alternatives(setting, one, Cpus(cpus))
    )


def test_what_is_clearly_better_is_found_setting_by_setting():
    def formula(one: Candidate) -> Trial:
        speed = 100.0 * (1 + 0.2 * (one.workers == 2) + 0.1 * (one.max_batch_size == 4))
        return trial(speed)

    outcome = search(Machine(formula))
    assert outcome.best.candidate == Candidate(workers=2, max_batch_size=4)
    assert outcome.steps[-1].setting == CONFIRMATION
    assert outcome.steps[-1].ratios[outcome.best.candidate] == pytest.approx([1.3] * 3)
    assert all(len(one.trials) >= 2 for one in outcome.board)


def test_ties_keep_the_defaults_and_the_fewest_workers():
    outcome = search(Machine(lambda one: trial(100 + one.workers / 10)))
    assert outcome.best.candidate == DEFAULT
    outcome = search(Machine(lambda one: trial(100 if one.workers == 1 else 150 + one.workers)))
    assert outcome.best.candidate == Candidate(workers=2)


def test_a_machine_that_becomes_faster_changes_nothing():
    speeds = (1.02**number for number in itertools.count())
    assert search(Machine(lambda one: trial(100), speeds)).best.candidate == DEFAULT


def test_noise_alone_hardly_ever_changes_anything():
    rng = np.random.default_rng(3)
    changed = 0
    for _ in range(100):
        speeds = rng.lognormal(0, 0.1, 200).tolist()
        changed += search(Machine(lambda one: trial(100), speeds)).best.candidate != DEFAULT
    assert changed <= 4


def test_a_gain_is_seen_through_noise():
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(30):
        speeds = rng.lognormal(0, 0.05, 200).tolist()
        machine = Machine(lambda one: trial(130 if one.workers == 4 else 100), speeds)
        found += search(machine).best.candidate.workers == 4
    assert found >= 26


def test_the_fastest_that_keeps_the_limits_wins():
    def formula(one: Candidate) -> Trial:
        return trial(100 * one.workers, p99_s=0.01 * one.workers, rss_mib=100 * one.workers)

    cases = (
        (Limits(), 4),
        (Limits(p99_s=0.025), 2),
        (Limits(memory_bytes=250 * MIB), 2),
        (Limits(p99_s=0.0101, memory_bytes=500 * MIB), 1),
    )
    for limits, workers in cases:
        outcome = search(Machine(formula), limits)
        assert outcome.best.candidate == Candidate(workers=workers)
        assert outcome.best.fits(limits)


def test_a_slower_one_that_fits_beats_a_faster_one_that_does_not():
    def formula(one: Candidate) -> Trial:
        return trial(50, 0.01) if one.max_batch_size == 1 else trial(100, 0.03)

    limits = Limits(p99_s=0.02)
    outcome = search(Machine(formula), limits)
    assert outcome.best.candidate == Candidate(max_batch_size=1)
    assert outcome.best.fits(limits)


def test_where_nothing_fits_the_nearest_is_chosen():
    limits = Limits(p99_s=0.001)
    outcome = search(Machine(lambda one: trial(100, 0.04 / one.workers)), limits)
    assert outcome.best.candidate == Candidate(workers=4)
    assert not outcome.best.fits(limits)
    assert outcome.best.excess(limits) == pytest.approx(10, rel=0.01)


def test_a_candidate_with_failures_is_out_and_not_tried_again():
    def formula(one: Candidate) -> Trial:
        return Trial(failure="ended with status 1") if one.workers > 1 else trial(100)

    machine = Machine(formula)
    outcome = search(machine)
    assert outcome.best.candidate == DEFAULT
    assert machine.tried.count(Candidate(workers=2)) == 1
    failed = next(one for one in outcome.board if one.candidate.workers == 4)
    assert failed.failure == "ended with status 1"
    assert not failed.fits(NO_LIMITS)


def test_a_start_that_fails_ends_the_search():
    with pytest.raises(SearchError, match="no models"):
        search(Machine(lambda one: Trial(failure="no models")))


def test_defaults_that_fail_later_lose():
    def formula(one: Candidate) -> Trial:
        late = one == DEFAULT and machine.tried.count(DEFAULT) > 2
        return Trial(failure="connection lost") if late else trial(100)

    machine = Machine(formula)
    assert search(machine).best.candidate == Candidate(workers=2)


def test_turns_are_taken_in_both_orders():
    machine = Machine(lambda one: trial(100))
    search(machine, cpus=2)
    two = Candidate(workers=2)
    assert machine.tried[1:5] == [DEFAULT, two, two, DEFAULT]


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([], "not better"),
        ([1.5, 1.5], "unclear"),
        ([1.01, 1.01, 1.01], "not better"),
        ([1.2, 1.3, 1.25], "better"),
        ([0.7, 1.9, 1.1], "unclear"),
        ([0.7, 1.9, 1.1, 0.8, 1.6], "not better"),
        ([0.5, 0.6], "not better"),
    ],
)
def test_the_verdict(ratios, verdict):
    assert judge(ratios) == verdict


def test_alternatives_suit_the_machine():
    workers = [one.workers for one in alternatives("workers", DEFAULT, Cpus(64))]
    assert workers == [8, 16, 32, 64]
    assert alternatives("workers", DEFAULT, Cpus(1)) == []
    four = replace(DEFAULT, workers=4)
    assert [one.threads for one in alternatives("threads", four, Cpus(4))] == [1]
    assert [one.threads for one in alternatives("threads", DEFAULT, Cpus(4))] == [1, 4]
    assert [one.instances for one in alternatives("instances", DEFAULT, Cpus(2))] == [1, 4]
    busy = replace(DEFAULT, workers=4, threads=2)
    assert alternatives("instances", busy, Cpus(4)) == []
    gpu = Cpus(8, gpu=True)
    assert alternatives("threads", DEFAULT, gpu) == []
    assert [one.instances for one in alternatives("instances", DEFAULT, gpu)] == [1, 4]
    for setting in TUNED:
        assert DEFAULT not in alternatives(setting, DEFAULT, Cpus(4))


@pytest.mark.parametrize("most", [0, 1, 2, 9, 31])
def test_the_load_that_fits_is_found(most):
    def measure(connections: int) -> Level:
        (level,) = trial(100, 0.01 if connections <= most else 0.03).levels
        return replace(level, connections=connections)

    level, measured = fitting_load(measure, 32, 0.02)
    assert (level.connections if level else 0) == most
    assert len(measured) <= 6

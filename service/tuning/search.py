"""Look for the best candidate, one setting after the other.

Machines drift: what is measured a minute later is measured on another machine. So the values of a
setting take turns with the incumbent, and what counts are the ratios to the incumbent of the same
round. A value wins only by more than the noise of these ratios and than ``_MARGIN``: on a tie the
incumbent stays, which begins as the defaults and one worker. The last word is the winner's
comparison with where the search began, in turns again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.tuning.trials import Candidate, Level, Limits, Measured, Trial

_ROUNDS = 2
_MIN_PAIRS, _MAX_PAIRS = 3, 5
_MARGIN = 1.03
_STANDARD_ERRORS = 3.0
CONFIRMATION = "confirmation"

Verdict = Literal["better", "not better", "unclear"]
Measure = Callable[[Candidate], Trial]
Alternatives = Callable[[str, Candidate], Sequence[Candidate]]


class SearchError(Exception):
    """The candidate that the search begins with does not work."""


@dataclass(frozen=True)
class Step:
    """One setting's turn.

    Attributes:
        setting: Its name, or ``CONFIRMATION``.
        incumbent: What was to beat.
        ratios: What was tried beside it, and its images a second to the incumbent's, round by
            round.
        winner: The incumbent or a challenger.
    """

    setting: str
    incumbent: Candidate
    ratios: Mapping[Candidate, Sequence[float]]
    winner: Candidate


@dataclass
class Outcome:
    """What the search found.

    Attributes:
        start: Where it began.
        best: What it chose.
        board: Every candidate, in the order of their first trials.
        steps: In their order.
    """

    start: Measured
    best: Measured
    board: list[Measured]
    steps: list[Step] = field(default_factory=list)


@dataclass
class Search:
    """A search under way.

    Attributes:
        measure: Tries a candidate.
        limits: What has to be kept.
        on_trial: Told of every candidate after a trial of it.
    """

    measure: Measure
    limits: Limits
    on_trial: Callable[[Measured], None] = lambda measured: None
    board: dict[Candidate, Measured] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def run(self, start: Candidate, settings: Iterable[str], alternatives: Alternatives) -> Outcome:
        """Take the settings in turns, each beginning with what won before.

        Raises:
            SearchError: The first candidate does not work.
        """
        if failure := self._try(start).failure:
            raise SearchError(failure)
        incumbent = start
        for setting in settings:
            challengers = alternatives(setting, incumbent)
            if challengers:
                incumbent = self._step(setting, incumbent, challengers)
        if incumbent != start:
            incumbent = self._step(CONFIRMATION, start, [incumbent])
        best = self._fitting_instead(self.board[incumbent])
        return Outcome(self.board[start], best, list(self.board.values()), self.steps)

    def _step(self, setting: str, incumbent: Candidate, among: Sequence[Candidate]) -> Candidate:
        rounds: list[dict[Candidate, Trial]] = []
        for number in range(_ROUNDS):
            order = [incumbent, *among]
            rounds.append(self._round(order if number % 2 == 0 else order[::-1]))
        leader: Candidate | None = None
        verdict: Verdict = "not better"
        while (leader := self._leader(incumbent, among, rounds)) is not None:
            verdict = self._judge(incumbent, leader, rounds)
            if verdict != "unclear":
                break
            rounds.append(self._round([leader, incumbent][:: 1 if len(rounds) % 2 else -1]))
        winner = leader if leader is not None and verdict == "better" else incumbent
        ratios = {one: _ratios(incumbent, one, rounds, _rate) for one in among}
        self.steps.append(Step(setting, incumbent, ratios, winner))
        return winner

    def _round(self, candidates: Iterable[Candidate]) -> dict[Candidate, Trial]:
        """Try each once; those that have failed before are out."""
        return {
            one: self._try(one)
            for one in candidates
            if one not in self.board or not self.board[one].failure
        }

    def _try(self, candidate: Candidate) -> Trial:
        trial = self.measure(candidate)
        measured = self.board.setdefault(candidate, Measured(candidate))
        measured.trials.append(trial)
        self.on_trial(measured)
        return trial

    def _leader(
        self,
        incumbent: Candidate,
        among: Sequence[Candidate],
        rounds: Sequence[dict[Candidate, Trial]],
    ) -> Candidate | None:
        """The best challenger; of those as good as it, the one that comes first."""
        working = [one for one in among if not self.board[one].failure]
        fitting = [one for one in working if self.board[one].fits(self.limits)]
        merit = _rate if fitting else self._nearness
        scores = {
            one: _mean(_ratios(incumbent, one, rounds, merit)) for one in (fitting or working)
        }
        best = max(scores.values(), default=0.0)
        return next((one for one in scores if scores[one] * _MARGIN >= best), None)

    def _judge(
        self, incumbent: Candidate, leader: Candidate, rounds: Sequence[dict[Candidate, Trial]]
    ) -> Verdict:
        ours, theirs = self.board[incumbent], self.board[leader]
        if ours.failure:
            return "better"
        fit = ours.fits(self.limits), theirs.fits(self.limits)
        merit = _rate if all(fit) else self._nearness
        ratios = _ratios(incumbent, leader, rounds, merit)
        if fit == (True, False):
            return "not better"
        if fit == (False, True):
            return "better" if len(ratios) >= _MIN_PAIRS else "unclear"
        return judge(ratios)

    def _nearness(self, trial: Trial) -> float:
        """The merit of what does not fit."""
        return 1 / self.limits.excess(trial.levels[0].p99_s, trial.rss_bytes)

    def _fitting_instead(self, best: Measured) -> Measured:
        """Another one of the board, where the one that was chosen does not fit and it does."""
        if best.fits(self.limits):
            return best
        found = [
            one
            for one in self.board.values()
            if len(one.trials) >= _ROUNDS and one.fits(self.limits)
        ]
        return max(found, key=lambda one: one.images_per_s, default=best)


def judge(ratios: Sequence[float]) -> Verdict:
    """Say whether ratios are above 1 by more than the margin and their noise."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs) if logs else 0.0
    if mean <= math.log(_MARGIN):
        return "not better"
    if len(logs) >= _MIN_PAIRS:
        error = statistics.stdev(logs) / math.sqrt(len(logs))
        if mean > _STANDARD_ERRORS * error:
            return "better"
    return "unclear" if len(logs) < _MAX_PAIRS else "not better"


def fitting_load(
    measure: Callable[[int], Level], connections: int, p99_s: float
) -> tuple[Level | None, list[Level]]:
    """Find the most connections with which p99 fits, where it does not with all of them.

    Returns:
        What was measured with them, or None where not even one fits; and all measurements.
    """
    fitting, measured = None, list[Level]()
    low, high = 1, connections - 1
    while low <= high:
        # One connection first: where that does not fit, nothing does.
        middle = (low + high + 1) // 2 if measured else 1
        level = measure(middle)
        measured.append(level)
        if level.p99_s <= p99_s:
            fitting, low = level, middle + 1
        else:
            high = middle - 1
    return fitting, measured


def _ratios(
    incumbent: Candidate,
    challenger: Candidate,
    rounds: Iterable[dict[Candidate, Trial]],
    merit: Callable[[Trial], float],
) -> list[float]:
    """The challenger's merit to the incumbent's, for each round that has both."""
    return [
        merit(trials[challenger]) / merit(trials[incumbent])
        for trials in rounds
        if _counts(trials.get(incumbent)) and _counts(trials.get(challenger))
    ]


def _counts(trial: Trial | None) -> bool:
    return trial is not None and not trial.failure


def _rate(trial: Trial) -> float:
    return trial.levels[0].images_per_s


def _mean(ratios: Sequence[float]) -> float:
    return statistics.geometric_mean(ratios) if ratios else 0.0

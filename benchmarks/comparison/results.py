"""Every figure of every round, kept as JSON, and what the report makes of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from comparison.trial import Outcome

CEILINGS = "ceilings"


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    """Outcomes by round, model and server.

    Attributes:
        about: Machine, versions, settings: whatever the report says of the run.
        rounds: For each round, by model and then by server.
    """

    about: dict[str, object] = field(default_factory=dict)
    rounds: list[dict[str, dict[str, Outcome]]] = field(default_factory=list)

    def add(self, number: int, network: str, server: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        while len(self.rounds) <= number:
            self.rounds.append({})
        self.rounds[number].setdefault(network, {})[server] = outcome

    def values(self, network: str, server: str, figure: str) -> list[float | None]:
        """One figure in each round; None where it is missing."""
        return [
            outcome.figures.get(figure) if (outcome := each.get(network, {}).get(server)) else None
            for each in self.rounds
        ]

    def spread(self, network: str, server: str, figure: str) -> Spread | None:
        """One figure over the rounds that have it."""
        found = [value for value in self.values(network, server, figure) if value is not None]
        return Spread.of(found) if found else None

    def servers(self, network: str) -> list[str]:
        """Who was tried with a model, in order."""
        names = [name for each in self.rounds for name in each.get(network, {})]
        return list(dict.fromkeys(names))

    def failures(self) -> dict[str, str]:
        """What failed, by server, model and kind: the last reason."""
        return {
            f"{server}, {network}, {what}": reason
            for each in self.rounds
            for network, outcomes in each.items()
            for server, outcome in outcomes.items()
            for what, reason in outcome.failures.items()
        }

    def write(self, path: Path) -> None:
        """Write all as JSON."""
        rounds = [
            {
                network: {
                    server: {"figures": outcome.figures, "failures": outcome.failures}
                    for server, outcome in outcomes.items()
                }
                for network, outcomes in each.items()
            }
            for each in self.rounds
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"about": self.about, "rounds": rounds}, indent=1) + "\n")


def ratios(above: Sequence[float | None], below: Sequence[float | None]) -> list[float]:
    """Ratios within each round that has both."""
    return [
        one / other
        for one, other in zip(above, below, strict=True)
        if one is not None and other is not None and other > 0
    ]


def best_of(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """In each round the largest that there is."""
    return [
        max((value for value in column if value is not None), default=None)
        for column in zip(*rows, strict=True)
    ]

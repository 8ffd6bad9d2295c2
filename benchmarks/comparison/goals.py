"""What the service is meant to reach, and whether it did in this run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from comparison.results import CEILINGS, Results, Spread, best_of, ratios

_MIB = 2**20
_WHERE = {
    "resnet20": ("jpeg 1x32", "jpeg 1x64"),
    "resnet18": ("jpeg 1x32",),
    "resnet50": ("jpeg 1x8", "jpeg 1x32"),
}
_TENSORS = {
    "resnet20": ("tensor 32x1", "tensor 32x4", "tensor 1000x1", "tensor 1000x4"),
    "resnet50": ("tensor 32x1",),
}


@dataclass(frozen=True)
class Goal:
    """One aim and what was measured.

    Attributes:
        text: What is compared.
        sense: ``>=`` or ``<=``.
        wanted: The limit.
        found: Over the rounds; None: not measured.
    """

    text: str
    sense: Literal[">=", "<="]
    wanted: float
    found: Spread | None

    @property
    def met(self) -> bool | None:
        """By the median; None: not measured."""
        if self.found is None:
            return None
        if self.sense == ">=":
            return self.found.median >= self.wanted
        return self.found.median <= self.wanted


def goals(results: Results, ours: str, peers: Sequence[str], python: Sequence[str]) -> list[Goal]:
    """Everything that one way of running our service is held to.

    Args:
        results: Of the run.
        ours: Name of our server.
        peers: Names of the others.
        python: Names of the Python servers among them.
    """
    table = _Table(results, ours)
    rows: list[Goal] = []
    for network, keys in _WHERE.items():
        for key in keys:
            where = f"{network}, {_words(key)}: images/s /"
            rows.append(table.over_best(f"{where} best Python server", 2.0, network, python, key))
            rows += [
                table.over(f"{where} {peer}", 1.2, network, peer, key)
                for peer in ("pytriton", "torchserve")
                if peer in peers
            ]
            rows.append(table.over_bound(f"{where} bound", 0.8, network, key))
    for network, keys in _TENSORS.items():
        for key in keys:
            text = f"{network}, {_words(key)}: images/s / ONNX Runtime alone"
            rows.append(table.over_raw(text, 0.95, network, key))
    rows += [
        table.latency(f"resnet20, {_words(key)}: p99 / {peer}", peer, key, "p99_ms")
        for key in ("jpeg 1x32", "jpeg 1x64")
        for peer in peers
    ]
    if "fastapi" in peers:
        text = f"resnet20, {_words('jpeg 1x1')}: p50 / fastapi"
        rows.append(table.latency(text, "fastapi", "jpeg 1x1", "p50_ms"))
    rows.append(table.absolute("resnet20: RSS after load, MiB", 150, "rss_bytes", 1 / _MIB))
    rows.append(table.absolute("resnet20: start to first right answer, s", 1.5, "start_s", 1.0))
    return [row for row in rows if row.found is not None]


class _Table:
    """Makes rows for one of our servers."""

    def __init__(self, results: Results, ours: str) -> None:
        self.results = results
        self.ours = ours

    def over(self, text: str, wanted: float, network: str, peer: str, key: str) -> Goal:
        return self._at_least(text, wanted, network, key, self._rates(network, peer, key))

    def over_best(
        self, text: str, wanted: float, network: str, peers: Sequence[str], key: str
    ) -> Goal:
        best = best_of([self._rates(network, peer, key) for peer in peers])
        return self._at_least(text, wanted, network, key, best)

    def over_bound(self, text: str, wanted: float, network: str, key: str) -> Goal:
        bounds = self.results.values(network, CEILINGS, "bound rate")
        return self._at_least(text, wanted, network, key, bounds)

    def over_raw(self, text: str, wanted: float, network: str, key: str) -> Goal:
        raw = self.results.values(network, CEILINGS, "raw rate")
        return self._at_least(text, wanted, network, key, raw)

    def latency(self, text: str, peer: str, key: str, figure: str) -> Goal:
        mine = self.results.values("resnet20", self.ours, f"{key} {figure}")
        theirs = self.results.values("resnet20", peer, f"{key} {figure}")
        return Goal(text, "<=", 1.0, _spread(ratios(mine, theirs)))

    def absolute(self, text: str, wanted: float, figure: str, unit: float) -> Goal:
        values = self.results.values("resnet20", self.ours, figure)
        found = [value * unit for value in values if value is not None]
        return Goal(text, "<=", wanted, _spread(found))

    def _at_least(
        self, text: str, wanted: float, network: str, key: str, other: Sequence[float | None]
    ) -> Goal:
        mine = self._rates(network, self.ours, key)
        return Goal(text, ">=", wanted, _spread(ratios(mine, other) if other else []))

    def _rates(self, network: str, server: str, key: str) -> list[float | None]:
        return self.results.values(network, server, f"{key} rate")


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None


def _words(key: str) -> str:
    """A cell's name as a reader says it."""
    kind, _, size = key.partition(" ")
    images, _, connections = size.partition("x")
    what = {"jpeg": "one JPEG", "files": f"{images} JPEGs", "tensor": f"tensor of {images}"}[kind]
    return f"{what} a request, {connections} connection{'s' if connections != '1' else ''}"

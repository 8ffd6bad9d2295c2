"""Tables I and II of the AdaResNet paper, in its own form, and its statistics done over.

A table has a row a layer (a block, counted from the input) and a column a round (a run), and holds
the signed weight of the shortcut. Source: AdaResNet (arXiv 2408.09958) section IV; which variance
its three numbers are was found by recomputing them (SCIENCE.md 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.report.errors import ReportError
from training.report.scales import RunScales, ScaleCourse


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Variance(_Record):
    """The same sum of squares over n and over n - 1; None for fewer than two values."""

    population: float | None
    sample: float | None


class DataSetTable(_Record):
    """One of the paper's tables.

    Attributes:
        data: Name of the data set.
        network: Of every round.
        rounds: The runs, in the order of the columns.
        kinds: Of each layer's shortcut.
        weights: Signed weight by layer (rows) and round (columns).
        mean_abs: Mean of ``abs(w)`` over rounds, a layer.
        within: Variance over rounds of ``abs(w)`` a layer, then the mean over layers.
        within_signed: The same of the signed weight.
    """

    data: str
    network: str
    rounds: list[str]
    kinds: list[str]
    weights: list[list[float]]
    mean_abs: list[float]
    within: Variance
    within_signed: Variance


class PaperTables(_Record):
    """All tables, and how much the data sets differ.

    Attributes:
        tables: One a data set, in the order in which the runs name them.
        between: Variance over the data sets of ``mean_abs`` a layer, then the mean over layers;
            None for one data set, or for networks of different depth.
        between_projection_share: Part of ``between`` that layers with a projection shortcut carry,
            where the size of w has no meaning; None where ``between`` is None or 0.
    """

    tables: list[DataSetTable]
    between: Variance | None
    between_projection_share: float | None


def make_tables(runs: Sequence[RunScales]) -> PaperTables:
    """Sort runs by data set and compute the paper's statistics.

    Raises:
        ReportError: A run has no shortcut scale in a block or one a channel, or rounds of one data
            set are of different networks.
    """
    by_data: dict[str, list[RunScales]] = {}
    for run in runs:
        by_data.setdefault(run.data, []).append(run)
    tables = [_table(data, rounds) for data, rounds in by_data.items()]
    if len(tables) < 2 or len({tuple(table.kinds) for table in tables}) > 1:
        return PaperTables(tables=tables, between=None, between_projection_share=None)
    means = np.array([table.mean_abs for table in tables]).T
    projections = np.array([kind == "projection" for kind in tables[0].kinds])
    spread = means.var(axis=1)
    return PaperTables(
        tables=tables,
        between=mean_variance(means),
        between_projection_share=(
            float(spread[projections].sum() / spread.sum()) if spread.any() else None
        ),
    )


def mean_variance(rows: NDArray[np.float64]) -> Variance:
    """Variance of each row, then the mean over rows.

    Args:
        rows: float64 [rows, n].
    """
    if rows.shape[1] < 2:
        return Variance(population=None, sample=None)
    return Variance(
        population=float(rows.var(axis=1).mean()), sample=float(rows.var(axis=1, ddof=1).mean())
    )


def markdown(found: PaperTables) -> str:
    """The tables and their statistics as Markdown."""
    parts = [_table_markdown(table) for table in found.tables]
    lines = ["| variance of abs(w), mean over layers | population | sample |", "|---|---:|---:|"]
    for table in found.tables:
        over = f"over {len(table.rounds)} rounds"
        lines.append(_row(f"{table.data}, {over}", table.within))
        lines.append(_row(f"{table.data}, {over}, of the signed w", table.within_signed))
    if found.between is not None:
        means = f"of the {len(found.tables)} means a layer"
        lines.append(_row(f"between data sets, {means}", found.between))
    parts.append("\n".join(lines))
    if len(found.tables) > 1 and found.between is None:
        parts.append("The networks differ between the data sets: no variance between them.")
    if found.between_projection_share is not None:
        parts.append(
            f"Layers with a projection shortcut, whose abs(w) has no meaning of its own, carry"
            f" {found.between_projection_share:.1%} of the variance between data sets."
        )
    return "\n\n".join(parts)


def _table(data: str, rounds: list[RunScales]) -> DataSetTable:
    columns = [_shortcuts(run) for run in rounds]
    shapes = {(run.network, len(column)) for run, column in zip(rounds, columns, strict=True)}
    if len(shapes) > 1:
        networks = ", ".join(sorted({run.network for run in rounds}))
        raise ReportError(f"the rounds on {data} are of different networks: {networks}")
    weights = np.array([[scale.end.mean for scale in column] for column in columns]).T
    return DataSetTable(
        data=data,
        network=rounds[0].network,
        rounds=[run.run for run in rounds],
        kinds=[scale.kind for scale in columns[0]],
        weights=weights.tolist(),
        mean_abs=np.abs(weights).mean(axis=1).tolist(),
        within=mean_variance(np.abs(weights)),
        within_signed=mean_variance(weights),
    )


def _shortcuts(run: RunScales) -> list[ScaleCourse]:
    found = [scale for scale in run.scales if scale.term == "shortcut"]
    if not found:
        raise ReportError(f"{run.run} has no scale on its shortcuts: the paper's tables hold those")
    if any(scale.channels > 1 for scale in found):
        raise ReportError(f"{run.run} has one scale a channel: the paper's tables hold one a layer")
    return found


def _table_markdown(table: DataSetTable) -> str:
    count = len(table.rounds)
    lines = [
        f"**Weights on {table.data}** ({table.network})",
        "",
        "| Layer | " + " | ".join(f"Round {n}" for n in range(1, count + 1)) + " |",
        "|---:|" + "---:|" * count,
    ]
    for layer, row in enumerate(table.weights, start=1):
        lines.append(f"| {layer} | " + " | ".join(f"{w:.4f}" for w in row) + " |")
    lines += ["", "Rounds: " + "; ".join(f"{n} {r}" for n, r in enumerate(table.rounds, 1)) + "."]
    return "\n".join(lines)


def _row(name: str, variance: Variance) -> str:
    values = (variance.population, variance.sample)
    cells = ("needs two rounds" if value is None else f"{value:.6f}" for value in values)
    return f"| {name} | " + " | ".join(cells) + " |"

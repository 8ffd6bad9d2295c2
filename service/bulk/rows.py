"""A result as one row of a table: the same columns in every format."""

from __future__ import annotations

from typing import Any, TypedDict

from service.bulk.paths import STDIN, printable
from service.client.results import Result


class Row(TypedDict):
    """One image; all but the first and the last are None or empty where there is an error.

    ``label``, ``probability`` and ``class_id`` are those of the most probable class, the lists
    those of all that were asked for, best first.
    """

    path: str
    label: str | None
    probability: float | None
    class_id: int | None
    labels: list[str]
    probabilities: list[float]
    class_ids: list[int]
    model: str | None
    version: int | None
    error: str | None


def row_of(result: Result) -> Row:
    """Put a result into columns."""
    predictions = () if result.error else result.predictions
    top = predictions[0] if predictions else None
    return {
        "path": path_of(result),
        "label": top.label if top else None,
        "probability": top.probability if top else None,
        "class_id": top.class_id if top else None,
        "labels": [each.label for each in predictions],
        "probabilities": [each.probability for each in predictions],
        "class_ids": [each.class_id for each in predictions],
        "model": result.model,
        "version": result.version,
        "error": result.error.detail if result.error else None,
    }


def path_of(result: Result) -> str:
    """The image's path, as it can be printed."""
    return STDIN if result.source is None else printable(result.source)


def text_of(result: Result) -> str:
    """A good result as one line for people."""
    classes = ", ".join(f"{each.label} {each.probability:.1%}" for each in result.predictions)
    return f"{path_of(result)}: {classes}"


def cells_of(row: Row, top_k: int) -> list[Any]:
    """A row for CSV, which has no lists: label and probability of each rank in columns."""
    ranks: list[Any] = []
    for rank in range(1, top_k):
        known = rank < len(row["labels"])
        ranks += [row["labels"][rank], row["probabilities"][rank]] if known else [None, None]
    first = [row["path"], row["label"], row["probability"], row["class_id"]]
    return [*first, *ranks, row["model"], row["version"], row["error"]]


def cell_names(top_k: int) -> list[str]:
    """The columns of ``cells_of``."""
    ranks = [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("label", "probability")]
    return ["path", "label", "probability", "class_id", *ranks, "model", "version", "error"]

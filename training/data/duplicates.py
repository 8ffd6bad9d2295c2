"""Pictures that occur more than once: under two labels, or in training and test data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.data.check import Checked
from training.data.labelled import Candidates

Place = tuple[int, int]  # split, position in it


def find_conflicts(
    splits: Sequence[Candidates], checked: Sequence[Checked], class_names: Sequence[str]
) -> dict[Place, str]:
    """Pictures whose decoded pixels occur under another label too, with a reason for each.

    Only pictures without faults are compared. Which of the labels is right can't be known, so all
    of the pictures are named.
    """
    places = [
        (s, int(position))
        for s, result in enumerate(checked)
        for position in np.flatnonzero(result.good)
    ]
    prints = np.concatenate([result.prints[result.good] for result in checked])
    labels = np.concatenate(
        [split.labels[result.good] for split, result in zip(splits, checked, strict=True)]
    )
    order = np.lexsort((labels, prints))
    prints, labels = prints[order], labels[order]
    clash = (prints[1:] == prints[:-1]) & (labels[1:] != labels[:-1])
    involved = np.flatnonzero(np.isin(prints, prints[1:][clash]))
    conflicts: dict[Place, str] = {}
    for i in involved:
        first = int(np.searchsorted(prints, prints[i], "left"))
        last = int(np.searchsorted(prints, prints[i], "right")) - 1
        # Sorted by label within a group, so one of the ends has another label.
        other = last if labels[last] != labels[i] else first
        s, position = places[order[other]]
        conflicts[places[order[i]]] = (
            f"labelled {class_names[labels[i]]!r}, but the same picture is labelled"
            f" {class_names[labels[other]]!r} as {splits[s].name(position)}"
        )
    return dict(sorted(conflicts.items()))


def count_leaks(train: Checked, test: Checked) -> int:
    """Test pictures whose decoded pixels are among the training pictures."""
    return int(np.isin(test.prints[test.good], train.prints[train.good]).sum())

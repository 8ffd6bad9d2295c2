"""The two pictures of an evaluation: what is taken for what, and how far confidence is right."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.report.canvas import new_figure, short_name
from training.report.metrics import BINS, Scores

_NUMBERED = 20  # classes whose cells can hold a number
_NAMED = 100  # classes whose names can stand beside the axes
_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#718096"


def draw_confusion(scores: Scores, title: str) -> Figure:
    """Draw the confusion matrix, each row divided by its images.

    Cells hold per cent up to 20 classes; names are left out beyond 100, where nobody could read
    them. The colour grows with the square root of the share, so that a mistake of 1 % is seen.
    """
    counts = np.array(scores.confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side_in = _side(len(shares))
    figure = new_figure(side_in + 1.2, side_in)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title, fontsize=10)
    _name_classes(axes, [short_name(c.name) for c in scores.classes])
    if len(shares) <= _NUMBERED:
        _number_cells(axes, shares)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "1 %", "5 %", "20 %", "50 %", "100 %"])
    bar.set_label("share of the true class's images")
    return figure


def draw_calibration(scores: Scores, title: str) -> Figure:
    """Draw the reliability diagram over the histogram of confidences.

    Source: Guo et al. 2017 (arXiv 1706.04599) figure 1.
    """
    figure = new_figure(5.5, 6.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    filled = [b for b in scores.bins if b.images]
    middles = [(b.low + b.high) / 2 for b in filled]
    upper.bar(
        middles,
        [b.accuracy or 0.0 for b in filled],
        width=0.92 / BINS,
        color=_BLUE,
        label="accuracy of the bin",
    )
    upper.plot(
        [b.confidence or 0.0 for b in filled],
        [b.accuracy or 0.0 for b in filled],
        "o",
        color=_ORANGE,
        markersize=4,
        label="at its mean confidence",
    )
    upper.plot([0, 1], [0, 1], "--", color=_GREY, linewidth=1, label="perfectly calibrated")
    upper.set(ylim=(0, 1.02), xlim=(0, 1), ylabel="accuracy")
    upper.legend(loc="upper left", fontsize=8, frameon=False)
    sign = "over" if scores.overconfidence >= 0 else "under"
    error = f"calibration error {scores.expected_calibration_error:.2%}"
    gap = f"{sign}confident by {abs(scores.overconfidence):.2%}"
    upper.set_title(f"{title}\n{error}, {gap}", fontsize=10)
    lower.bar(middles, [b.images for b in filled], width=0.92 / BINS, color=_GREY)
    lower.set(xlabel="confidence", ylabel="images")
    return figure


def _side(classes: int) -> float:
    """Height of the picture, inches: a readable cell each, within bounds."""
    if classes <= _NUMBERED:
        return max(4.0, 0.45 * classes + 2.0)
    return min(0.14 * classes + 3.0, 17.0)


def _name_classes(axes: Axes, names: list[str]) -> None:
    if len(names) > _NAMED:
        return
    size = 9 if len(names) <= _NUMBERED else 6
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _number_cells(axes: Axes, shares: NDArray[np.float64]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:
            text = f"{100 * share:.0f}" if share >= 0.01 else "<1"
            colour = "white" if share > 0.3 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)

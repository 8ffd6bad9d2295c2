"""Pictures of learned scales: their course over training, and what they do on data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from training.report.canvas import new_figure, short_name, short_path
from training.report.scales import RunScales, ScaleCourse
from training.report.skip_share import BlockShare

Kind = Literal["identity", "projection"]
_KINDS: tuple[Kind, ...] = ("identity", "projection")
_LISTED = 12  # scales that a legend can name; beyond, a colour bar gives the depth
_NAMED_BLOCKS = 30  # block names that fit under an axis
_GREY = "#718096"


def draw_weights(runs: Sequence[RunScales]) -> Figure:
    """Draw every scale over epochs, one panel a run.

    Blue is an identity shortcut and orange a projection, darker the deeper; a scale of the branch
    is dashed. Scales with one value a channel are drawn as their mean in the band that they span.
    """
    figure = new_figure(9.0, 1.0 + 3.4 * len(runs))
    panels = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axes, run in zip(panels, runs, strict=True):
        colours = _colours(run)
        for scale in run.scales:
            _draw_course(axes, scale, colours[scale.block], min(0.12, 0.6 / len(run.scales)))
        low, high = axes.get_ylim()
        if low <= 0 <= high:  # elsewhere it would press the curves together
            axes.axhline(0, color=_GREY, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("scale")
        axes.set_title(f"{short_path(run.run)}: {run.network} on {run.data}", fontsize=10)
        if len(run.scales) <= _LISTED:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
        else:
            _explain_ramp(figure, axes, run)
    panels[-1].set_xlabel("epoch")
    return figure


def draw_shares(runs: Sequence[RunScales]) -> Figure:
    """Draw the skip share against the block, runs side by side.

    A filled mark is a positive weight, an empty one a negative or zero weight; circles are
    identity shortcuts and squares projections.

    Args:
        runs: At least one with shares.
    """
    measured = [run for run in runs if run.shares]
    depth = max(len(run.shares) for run in measured)
    figure = new_figure(min(6.0 + 0.12 * depth * len(measured), 16.0), 4.8)
    axes = figure.add_subplot()
    palette = matplotlib.colormaps["tab10"]
    for number, run in enumerate(measured):
        offset = 0.6 * ((number + 0.5) / len(measured) - 0.5)
        _draw_run_shares(axes, run, offset, to_hex(palette(number % 10)))
    axes.axhline(0.5, color=_GREY, linewidth=0.8, linestyle="--")
    axes.set(ylim=(-0.02, 1.02), ylabel="skip share", xlabel="block")
    axes.set_title("rms(w S(x)) / (rms(w S(x)) + rms(v T(x)))", fontsize=10)
    _name_blocks(axes, measured)
    figure.legend(
        handles=[*axes.get_legend_handles_labels()[0], *_mark_handles()],
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    return figure


def _draw_course(axes: Axes, scale: ScaleCourse, colour: str, band_alpha: float) -> None:
    style = "-" if scale.term == "shortcut" else "--"
    label = short_name(f"{scale.block} {scale.term}")
    axes.plot(
        scale.epochs,
        [then.mean for then in scale.course],
        style,
        color=colour,
        linewidth=1.4,
        zorder=2 if scale.kind == "identity" else 3,  # few among many
        marker="." if len(scale.epochs) < 2 else None,
        label=label,
    )
    if scale.channels > 1:
        axes.fill_between(
            scale.epochs,
            [then.low for then in scale.course],
            [then.high for then in scale.course],
            color=colour,
            alpha=band_alpha,  # many bands lie over one another
            linewidth=0,
        )


def _ramp(kind: Kind) -> Colormap:
    # The lightest third of the map would vanish on white.
    whole = matplotlib.colormaps["Blues" if kind == "identity" else "Oranges"]
    steps = [whole(0.35 + 0.65 * step / 15) for step in range(16)]
    return LinearSegmentedColormap.from_list(kind, steps)


def _blocks(run: RunScales) -> dict[str, Kind]:
    """Every block with a scale and its kind, from input to output."""
    return {scale.block: scale.kind for scale in run.scales}


def _colours(run: RunScales) -> dict[str, str]:
    blocks = _blocks(run)
    last = max(1, len(blocks) - 1)
    return {
        name: to_hex(_ramp(kind)(depth / last)) for depth, (name, kind) in enumerate(blocks.items())
    }


def _explain_ramp(figure: Figure, axes: Axes, run: RunScales) -> None:
    blocks = _blocks(run)
    for kind in _KINDS:
        if kind in blocks.values():
            shades = ScalarMappable(Normalize(1, len(blocks)), _ramp(kind))
            bar = figure.colorbar(shades, ax=axes, pad=0.01, fraction=0.04)
            bar.set_label(f"{kind}: block, from the input", fontsize=8)
            bar.ax.tick_params(labelsize=7)
    if len({scale.term for scale in run.scales}) > 1:
        handles = [
            Line2D([], [], color=_GREY, linestyle="-", label="shortcut"),
            Line2D([], [], color=_GREY, linestyle="--", label="branch"),
        ]
        axes.legend(handles=handles, fontsize=8, frameon=False, loc="best")


def _draw_run_shares(axes: Axes, run: RunScales, offset: float, colour: str) -> None:
    drawn = [(n, b) for n, b in enumerate(run.shares, start=1) if b.skip_share is not None]
    places = [number + offset for number, _ in drawn]
    shares = [block.skip_share or 0.0 for _, block in drawn]
    axes.plot(places, shares, color=colour, linewidth=0.8, alpha=0.5, label=short_path(run.run))
    for (_, block), place, share in zip(drawn, places, shares, strict=True):
        axes.plot(
            [place],
            [share],
            marker="o" if block.kind == "identity" else "s",
            markersize=5,
            markeredgecolor=colour,
            markerfacecolor=colour if _is_positive(run, block) else "white",
            linestyle="none",
        )


def _is_positive(run: RunScales, block: BlockShare) -> bool:
    own = [s.end.mean for s in run.scales if s.block == block.block and s.term == "shortcut"]
    return not own or own[0] > 0


def _name_blocks(axes: Axes, runs: Sequence[RunScales]) -> None:
    names = [block.block for block in runs[0].shares]
    same = all([block.block for block in run.shares] == names for run in runs)
    if same and len(names) <= _NAMED_BLOCKS:
        axes.set_xticks(
            range(1, len(names) + 1), [short_name(name) for name in names], rotation=90, fontsize=7
        )
    else:
        axes.set_xlabel("block, counted from the input")


def _mark_handles() -> list[Line2D]:
    marks = (
        ("o", _GREY, "identity, w > 0"),
        ("o", "white", "identity, w <= 0"),
        ("s", _GREY, "projection, w > 0"),
        ("s", "white", "projection, w <= 0"),
    )
    return [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=mark,
            markeredgecolor=_GREY,
            markerfacecolor=fill,
            label=label,
        )
        for mark, fill, label in marks
    ]

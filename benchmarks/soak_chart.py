"""Draw what was measured over time as an SVG that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _GAP = 860, 130, 64, 16, 48, 34
_INK, _FAINT, _MARK = "#333", "#e4e4e4", "#b8b8b8"
_COLOURS = ("#1f6fb4", "#c2571a")
_TICKS = 4
_MAX_POINTS = 600


@dataclass(frozen=True)
class Line:
    """A quantity over time.

    Attributes:
        name: In the legend.
        points: Minutes and values.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Quantities that share an axis, which begins at 0."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Chart:
    """Panels below each other.

    Attributes:
        title: Above all.
        minutes: Length of the axis of time.
        panels: From top to bottom.
        marks: Moments that are marked in all of them, minutes.
        mark: What the marks mean.
    """

    title: str
    minutes: float
    panels: Sequence[Panel]
    marks: Sequence[float] = field(default_factory=tuple)
    mark: str = ""

    def svg(self) -> str:
        """The drawing."""
        height = _TOP + len(self.panels) * (_PANEL + _GAP) + 20
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
            ' font-family="system-ui, sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
            _text(_LEFT, 20, self.title, size=15),
        ]
        if self.marks:
            parts.append(_text(_WIDTH - _RIGHT, 20, f"dashed: {self.mark}", anchor="end"))
        for number, panel in enumerate(self.panels):
            parts += self._panel(panel, _TOP + number * (_PANEL + _GAP))
        bottom = _TOP + len(self.panels) * (_PANEL + _GAP) - _GAP
        for minute in _steps(self.minutes):
            parts.append(_text(self._x(minute), bottom + 16, f"{minute:g}", anchor="middle"))
        parts.append(_text(_WIDTH - _RIGHT, bottom + 32, "minutes", anchor="end"))
        return "\n".join([*parts, "</svg>", ""])

    def _panel(self, panel: Panel, top: float) -> list[str]:
        values = [value for line in panel.lines for _, value in line.points]
        steps = _steps(max(values, default=1.0) or 1.0)
        highest = steps[-1]
        parts = [_text(_LEFT, top - 6, panel.title)]
        for value in steps:
            y = top + _PANEL * (1 - value / highest)
            parts.append(_rule(_LEFT, y, _WIDTH - _RIGHT, y, _FAINT))
            parts.append(_text(_LEFT - 6, y + 4, f"{value:g}", anchor="end"))
        for mark in self.marks:
            x = self._x(mark)
            parts.append(_rule(x, top, x, top + _PANEL, _MARK, ' stroke-dasharray="3 3"'))
        right = _WIDTH - _RIGHT
        for line, colour in reversed(list(zip(panel.lines, _COLOURS, strict=False))):
            points = " ".join(
                f"{self._x(minute):.1f},{top + _PANEL * (1 - value / highest):.1f}"
                for minute, value in _thinned(line.points)
            )
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
            )
            if len(panel.lines) > 1:
                parts.append(_text(right, top - 6, line.name, anchor="end", colour=colour))
                right -= 10 + 7 * len(line.name)
        return parts

    def _x(self, minute: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * minute / self.minutes


def _steps(highest: float) -> list[float]:
    """Round numbers from 0 on; the last one is not below the highest value, if by a hair."""
    rough = highest / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough * 0.999)
    return [step * number for number in range(math.ceil(highest / step - 1e-3) + 1)]


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most so many points, the highest of each stretch: nothing that stands out gets lost."""
    stretch = -(-len(points) // _MAX_POINTS)
    if stretch <= 1:
        return points
    return [
        max(points[start : start + stretch], key=lambda point: point[1])
        for start in range(0, len(points), stretch)
    ]


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = _INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' fill="{colour}">{html.escape(text)}</text>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'
    )

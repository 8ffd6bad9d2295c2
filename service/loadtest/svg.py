"""Draw latency percentiles over rates, as SVG that stands by itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from service.loadtest.gates import Gate
from service.loadtest.measurement import Measurement
from service.loadtest.report import Report
from service.tuning.quantities import milliseconds, rate

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 88, 58
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_SERIES = ("p50", "p90", "p99", "p99.9", "max")
_KEPT_UP = 0.95
_TICKS = 8
# Colours that differ in brightness too, each with one for dark backgrounds.
_STYLE = """
.paper { fill: #ffffff } .frame { fill: none; stroke: #8c959f } .grid { stroke: #d8dee4 }
text { fill: #1f2328; font: 12px system-ui, -apple-system, "Segoe UI", sans-serif }
.title { font-size: 15px; font-weight: 600 } .soft { fill: #59636e }
.line { fill: none; stroke: currentColor; stroke-width: 2 }
.limit { stroke: #cf222e; stroke-dasharray: 6 4 } .limit-text { fill: #cf222e }
.s0 { color: #54aeff } .s1 { color: #1f883d }
.s2 { color: #bc4c00 } .s3 { color: #8250df }
.s4 { color: #57606a } .line.s4 { stroke-dasharray: 2 4 }
.mark { fill: currentColor; stroke: currentColor; stroke-width: 2 } .open { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117 } .frame { stroke: #6e7681 } .grid { stroke: #262c36 }
  text { fill: #e6edf3 } .soft { fill: #9198a1 }
  .limit { stroke: #ff7b72 } .limit-text { fill: #ff7b72 } .open { fill: #0d1117 }
  .s0 { color: #a5d6ff } .s1 { color: #3fb950 }
  .s2 { color: #f0883e } .s3 { color: #bc8cff }
  .s4 { color: #9198a1 }
}
"""


@dataclass(frozen=True)
class _Axes:
    """Where values lie: rates on a linear axis from 0, latencies on a logarithmic one."""

    most_per_s: float
    least_s: float
    most_s: float

    def x(self, per_s: float) -> float:
        return _LEFT + _PLOT_WIDTH * per_s / self.most_per_s

    def y(self, seconds: float) -> float:
        inside = min(self.most_s, max(self.least_s, seconds))
        share = math.log(inside / self.least_s) / math.log(self.most_s / self.least_s)
        return _TOP + _PLOT_HEIGHT * (1 - share)


def draw(report: Report) -> str:
    """The chart, as an XML document; rates without any answer have no points."""
    points = sorted(report.measurements, key=lambda one: one.load.rate_per_s)
    shown = [one for one in points if one.latencies.total]
    limits = _limits(report)
    axes = _axes(points, shown, [seconds for _, seconds in limits])
    title = escape(report.title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{title}</title>',
        f'<desc id="desc">{escape(_description(shown))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        _text(_LEFT, 28, title, "title"),
        _text(_LEFT, 47, escape(report.subtitle), "soft"),
        *_legend(),
        *_latency_axis(axes),
        *_rate_axis(axes),
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_PLOT_WIDTH}"'
        f' height="{_PLOT_HEIGHT}"/>',
    ]
    for text, seconds in limits:
        y = axes.y(seconds)
        parts.append(_line("limit", _LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(_text(_LEFT + 6, y - 5, escape(text), "limit-text"))
    for number, name in reversed(list(enumerate(_SERIES))):  # what most requests had is on top
        parts += _series(axes, shown, number, name)
    return "\n".join([*parts, "</svg>", ""])


def _limits(report: Report) -> list[tuple[str, float]]:
    """Latencies that must not be exceeded, with what they are called."""
    found = [(gate.text, gate.value) for gate in report.gates if _is_upper(gate)]
    if report.goal is not None:
        found.append((f"p99 within {milliseconds(report.goal.p99_s)}", report.goal.p99_s))
    return found


def _is_upper(gate: Gate) -> bool:
    return gate.metric in _SERIES and gate.comparison.startswith(">")


def _axes(
    points: Sequence[Measurement], shown: Sequence[Measurement], limits: Sequence[float]
) -> _Axes:
    latencies = [seconds for one in shown for seconds in one.percentiles_s().values()]
    values = [seconds for seconds in (*latencies, *limits) if seconds > 0] or [0.001, 0.1]
    ticks = [tick for tick in _latency_ticks() if tick <= min(values)]
    least = max(ticks, default=1e-6)
    most = min((tick for tick in _latency_ticks() if tick >= max(values)), default=max(values))
    if most <= least:
        most = least * 10
    rates = [one.load.rate_per_s for one in points]
    return _Axes(max(rates, default=1.0) * 1.05, least, most)


def _latency_ticks() -> list[float]:
    return [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]


def _latency_axis(axes: _Axes) -> list[str]:
    inside = [tick for tick in _latency_ticks() if axes.least_s <= tick <= axes.most_s]
    if len(inside) > 2 * _TICKS:  # only powers of ten
        inside = inside[next(n for n, tick in enumerate(inside) if _is_power(tick)) :: 3]
    parts = []
    for tick in inside:
        y = axes.y(tick)
        parts.append(_line("grid", _LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(_text(_LEFT - 8, y + 4, _duration(tick), "soft", "end"))
    middle = _TOP + _PLOT_HEIGHT / 2
    parts.append(
        f'<text transform="translate(18 {middle:g}) rotate(-90)" text-anchor="middle">'
        "latency from the time due (log scale)</text>"
    )
    return parts


def _is_power(tick: float) -> bool:
    return math.isclose(math.log10(tick), round(math.log10(tick)), abs_tol=1e-9)


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size * 0.999:
            return f"{seconds / size:g} {unit}"
    return f"{seconds * 1e6:g} µs"


def _rate_axis(axes: _Axes) -> list[str]:
    rough = axes.most_per_s / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    parts = []
    for number in itertools.count():
        if (value := number * step) > axes.most_per_s:
            break
        x = axes.x(value)
        parts.append(_line("grid", x, _TOP, x, _TOP + _PLOT_HEIGHT))
        parts.append(_text(x, _TOP + _PLOT_HEIGHT + 18, f"{value:g}", "soft", "middle"))
    middle = _LEFT + _PLOT_WIDTH / 2
    parts.append(_text(middle, _HEIGHT - 16, "rate of arrival (requests/s)", "", "middle"))
    return parts


def _legend() -> list[str]:
    parts, x = [], _LEFT
    for number, name in enumerate(_SERIES):
        parts.append(_line(f"line s{number}", x, 68, x + 22, 68))
        parts.append(f'<circle class="mark s{number}" cx="{x + 11}" cy="68" r="3.5"/>')
        parts.append(_text(x + 28, 72, name))
        x += 78
    parts.append(f'<circle class="mark open s{len(_SERIES) - 1}" cx="{x + 6}" cy="68" r="3.5"/>')
    parts.append(_text(x + 16, 72, "open: errors, or not all answered in time", "soft"))
    return parts


def _series(axes: _Axes, shown: Sequence[Measurement], number: int, name: str) -> list[str]:
    places = [
        (axes.x(one.load.rate_per_s), axes.y(one.percentiles_s()[name]), one) for one in shown
    ]
    parts = []
    if len(places) > 1:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(f'<polyline class="line s{number}" points="{line}"/>')
    for x, y, one in places:
        fell_short = one.failed or one.achieved_share < _KEPT_UP
        kind = "mark open" if fell_short else "mark"
        value = milliseconds(one.percentiles_s()[name])
        parts.append(
            f'<circle class="{kind} s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
            f"<title>{name} at {rate(one.load.rate_per_s)}/s: {value}</title></circle>"
        )
    return parts


def _description(shown: Sequence[Measurement]) -> str:
    texts = [
        f"{rate(one.load.rate_per_s)} requests a second: "
        + ", ".join(f"{name} {milliseconds(value)}" for name, value in one.percentiles_s().items())
        for one in shown
    ]
    return "; ".join(texts) or "Nothing was answered."


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, escaped: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped}</text>'

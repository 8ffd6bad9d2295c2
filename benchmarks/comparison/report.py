"""The section of the documentation: machine, settings, tables, goals met and missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comparison.contenders import Contender
from comparison.goals import Goal, goals
from comparison.networks import NETWORKS
from comparison.plan import Plan
from comparison.results import CEILINGS, Results, Spread

BEGIN = "<!-- serving: begin -->"
END = "<!-- serving: end -->"
_MIB = 2**20
_NONE = "-"


@dataclass(frozen=True)
class Column:
    """A column of a table: heading, figure, unit and decimals."""

    heading: str
    figure: str
    unit: float = 1.0
    decimals: int = 0
    ranged: bool = True


def put_section(document: str, section: str) -> str:
    """The document with its marked section replaced, or with one at its end."""
    marked = f"{BEGIN}\n{section.strip()}\n{END}\n"
    if BEGIN in document and END in document:
        before, _, rest = document.partition(BEGIN)
        after = rest.partition(END)[2].lstrip("\n")
        return before + marked + (f"\n{after}" if after else "")
    return document.rstrip("\n") + "\n\n" + marked if document.strip() else marked


def write_section(results: Results, contenders: Sequence[Contender], plan: Plan) -> str:
    """Everything, in Markdown."""
    parts = [
        "## Beside other servers",
        _about(results, plan),
        _settings(results, contenders),
        *(_tables(results, contenders, network.name) for network in NETWORKS),
        _ceilings(results),
        _goal_table(results, contenders),
        _failures(results),
    ]
    return "\n\n".join(part for part in parts if part)


def format_spread(spread: Spread | None, decimals: int = 0, *, ranged: bool = True) -> str:
    """``median (low to high)``."""
    if spread is None:
        return _NONE
    middle, low, high = (f"{x:,.{decimals}f}" for x in (spread.median, spread.low, spread.high))
    return f"{middle} ({low} to {high})" if ranged and low != high else middle


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _about(results: Results, plan: Plan) -> str:
    about = results.about
    return (
        f"`{about['command']}`, {about['date']}: {about['machine']}; load from wrk"
        f" {about['wrk']} on the same cores; pictures: {about['pictures']}. Each of"
        f" {len(results.rounds)} rounds starts every server anew, checks its answers against ONNX"
        " Runtime's, warms it until its rate is steady, measures it and ends it. Figures are"
        " medians over the rounds with their range; images/s where nothing else is said, latencies"
        " in ms. All run the same ONNX file with the same ONNX Runtime, and the others decode with"
        " Pillow; every one has the settings that its documentation gives for this job."
        f" Before the start {about['busy_cores']} cores were busy with other things, during the"
        f" measurements {about['other_cores']} (median)."
        + (" A smoke run: too short to quote." if plan.quick else "")
    )


def _settings(results: Results, contenders: Sequence[Contender]) -> str:
    versions = results.about["versions"]
    assert isinstance(versions, dict)
    rows = [
        [one.title, ", ".join(f"{k} {v}" for k, v in versions[one.name].items()), one.settings]
        for one in contenders
        if one.name in versions
    ]
    return table(["server", "versions", "settings"], rows)


def _tables(results: Results, contenders: Sequence[Contender], network: str) -> str:
    known = set(results.servers(network))
    rows = [one for one in contenders if one.name in known]
    if not rows:
        return ""

    def by_title(columns: Sequence[Column]) -> str:
        return _columns(results, rows, network, columns)

    description = next(n for n in NETWORKS if n.name == network)
    heading = f"### {network}, {description.px} x {description.px}, {description.classes} classes"
    counts = [1, 8, 32, 64] if network == "resnet20" else [1, 32]
    if network == "resnet50":
        counts = [1, 8, 32]
    rates = [
        Column(f"{c} conn.", f"jpeg 1x{c} rate", decimals=_rate_decimals(network)) for c in counts
    ]
    latencies = [
        Column(f"p{p} at {c}", f"jpeg 1x{c} p{p}_ms", decimals=1)
        for c in counts
        if c != 8
        for p in (50, 99)
    ]
    parts = [
        heading,
        "One JPEG a request, images/s by connections:",
        by_title(rates),
        "Latency of the same, ms by connections:",
        by_title(latencies),
        "What it costs: core-ms an image at 32 connections, of the server and of wrk; memory after"
        " the load; seconds from the start to the first right answer:",
        by_title(_COSTS),
    ]
    many = [
        Column(
            f"{images} {words}, {c} conn.",
            f"{kind} {images}x{c} rate",
            decimals=_rate_decimals(network),
        )
        for images in (32, 1000)
        for kind, words in (("files", "JPEGs"), ("tensor", "as a tensor"))
        for c in (1, 4)
        if any(results.spread(network, one.name, f"{kind} {images}x{c} rate") for one in rows)
    ]
    if many:
        parts += ["Many images a request, images/s:", by_title(many)]
    return "\n\n".join(parts)


_COSTS = (
    Column("core-ms", "jpeg 1x32 cpu_ms", decimals=2),
    Column("wrk's core-ms", "jpeg 1x32 client_cpu_ms", decimals=2),
    Column("RSS, MiB", "rss_bytes", 1 / _MIB),
    Column("PSS, MiB", "pss_bytes", 1 / _MIB),
    Column("start, s", "start_s", decimals=2),
)


def _columns(
    results: Results, rows: Sequence[Contender], network: str, columns: Sequence[Column]
) -> str:
    lines = [[one.title, *(_cell(results, network, one.name, c) for c in columns)] for one in rows]
    return table(["server", *(column.heading for column in columns)], lines)


def _cell(results: Results, network: str, server: str, column: Column) -> str:
    found = results.spread(network, server, column.figure)
    if found is not None:
        scaled = (found.median, found.low, found.high)
        found = Spread(*(value * column.unit for value in scaled))
    return format_spread(found, column.decimals, ranged=column.ranged)


def _rate_decimals(network: str) -> int:
    return 1 if network == "resnet50" else 0


def _ceilings(results: Results) -> str:
    rows = []
    best = results.about.get("best", {})
    assert isinstance(best, dict)
    for network in (each.name for each in NETWORKS):
        raw = results.spread(network, CEILINGS, "raw rate")
        if raw is None:
            continue
        decode = results.spread(network, CEILINGS, "decode_s")
        assert decode is not None
        in_ms = Spread(decode.median * 1e3, decode.low * 1e3, decode.high * 1e3)
        rows.append(
            [
                network,
                format_spread(raw, _rate_decimals(network)),
                str(best.get(network, _NONE)),
                format_spread(in_ms, 3),
                format_spread(
                    results.spread(network, CEILINGS, "bound rate"), _rate_decimals(network)
                ),
            ]
        )
    if not rows:
        return ""
    headings = ["model", "ONNX Runtime alone", "at its best with", "decoding, core-ms", "bound"]
    words = (
        "### Ceilings\n\nONNX Runtime on tensors, no server, at the best of several batch sizes and"
        " arrangements of threads; and the bound for one JPEG a request, when all cores do nothing"
        " but decode and run: cores / (core-seconds of decoding + core-seconds of inference)."
    )
    return words + "\n\n" + table(headings, rows)


def _goal_table(results: Results, contenders: Sequence[Contender]) -> str:
    ours = [
        one.name
        for one in contenders
        if one.peer is None and one.name in results.servers("resnet20")
    ]
    peers = [one.name for one in contenders if one.peer]
    python = [one.name for one in contenders if one.python]
    if not ours:
        return ""
    tables = [goals(results, name, peers, python) for name in ours]
    texts = list(dict.fromkeys(goal.text for goals_of in tables for goal in goals_of))
    by_text = [{goal.text: goal for goal in goals_of} for goals_of in tables]
    rows = []
    for text in texts:
        found = [goals_of.get(text) for goals_of in by_text]
        one = next(goal for goal in found if goal is not None)
        rows.append([text, f"{one.sense} {one.wanted:g}", *map(_verdict, found)])
    words = "### Goals\n\nRatios are taken within each round; the median decides."
    return words + "\n\n" + table(["what", "goal", *ours], rows)


def _verdict(goal: Goal | None) -> str:
    if goal is None or goal.met is None:
        return _NONE
    text = format_spread(goal.found, 0 if goal.wanted > 10 else 2)
    return f"{text} met" if goal.met else f"{text} **missed**"


def _failures(results: Results) -> str:
    failures = results.failures()
    if not failures:
        return ""
    lines = [f"- {what}: {reason}" for what, reason in failures.items()]
    return "What failed, and is left out above:\n\n" + "\n".join(lines)

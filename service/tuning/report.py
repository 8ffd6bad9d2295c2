"""Say what was measured: in lines, in a table, and for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from service.tuning.quantities import mebibytes, milliseconds, rate
from service.tuning.search import CONFIRMATION, Outcome, Step
from service.tuning.trials import Level, Limits, Measured

_HEAD = (
    "CANDIDATE",
    "TRIALS",
    "IMAGES/S",
    "(RANGE)",
    "P50",
    "P99",
    "(RANGE)",
    "RSS",
    "PSS",
    "CPU/IMAGE",
)


def describe(measured: Measured) -> str:
    """The figures of a candidate, one line."""
    low, high = min(measured.rates, default=0.0), max(measured.rates, default=0.0)
    return (
        f"{rate(measured.images_per_s)} images/s ({rate(low)} to {rate(high)}),"
        f" {describe_costs(measured)}"
    )


def describe_costs(measured: Measured) -> str:
    """Its latency and memory, one line."""
    return f"p99 {milliseconds(measured.p99_s)}, {mebibytes(measured.rss_bytes)}"


def describe_limits(limits: Limits) -> str:
    """What is asked for, one line."""
    parts = ["the most images a second"]
    if limits.p99_s is not None:
        parts.append(f"p99 at most {milliseconds(limits.p99_s)}")
    if limits.memory_bytes is not None:
        parts.append(f"memory (RSS) at most {mebibytes(limits.memory_bytes)}")
    return ", ".join(parts)


def describe_gain(outcome: Outcome) -> str:
    """What was chosen against where the search began, one line."""
    if outcome.best.candidate == outcome.start.candidate:
        return f"nothing; {outcome.start.candidate} is what nothing else clearly beats here"
    text = f"instead of {describe(outcome.start)} with {outcome.start.candidate}"
    for step in outcome.steps:
        if step.setting == CONFIRMATION:
            ratios = step.ratios[step.winner]
            text += f"; {spread(ratios)} its images/s, in turns with it"
    return text


def misses(measured: Measured, limits: Limits) -> list[str]:
    """By how much a candidate misses each limit that it misses."""
    if measured.failure:
        return [measured.failure]
    found = []
    if limits.p99_s is not None and measured.p99_s > limits.p99_s:
        over = milliseconds(measured.p99_s - limits.p99_s)
        found.append(f"p99 is {milliseconds(measured.p99_s)}, {over} too much")
    if limits.memory_bytes is not None and measured.rss_bytes > limits.memory_bytes:
        over = mebibytes(measured.rss_bytes - limits.memory_bytes)
        found.append(f"memory is {mebibytes(measured.rss_bytes)}, {over} too much")
    return found


def table(outcome: Outcome, limits: Limits) -> list[str]:
    """Every candidate with all figures, and the chosen one at each number of connections."""
    rows = [_HEAD, *(_cells(one) for one in outcome.board)]
    notes = ["", *(_note(one, outcome, limits) for one in outcome.board)]
    lines = [f"{line}  {note}".rstrip() for line, note in zip(_aligned(rows), notes, strict=True)]
    lines += [
        "",
        f"{outcome.best.candidate}, all trials together:",
    ]
    levels = [_level_cells(level) for level in outcome.best.levels]
    return [*lines, *_aligned([("CONNECTIONS", "IMAGES/S", "P50", "P99", "P99.9"), *levels])]


def spread(ratios: Sequence[float]) -> str:
    """Ratios, as their mean and range."""
    mean = sum(ratios) / len(ratios) if ratios else 0.0
    return f"{mean:.2f} times ({min(ratios, default=0):.2f} to {max(ratios, default=0):.2f})"


def fault(measured: Measured, limits: Limits) -> str:
    """What a candidate misses, to go behind its figures; empty where nothing."""
    return "; " + ", ".join(found) if (found := misses(measured, limits)) else ""


def describe_others(outcome: Outcome) -> str:
    """How much else the machine had to do, one line."""
    found = [trial.other_cpus for one in outcome.board for trial in one.trials if trial.levels]
    middle, most = statistics.median(found or [0.0]), max(found, default=0.0)
    return f"{middle:.2f} CPUs were busy with something else (at most {most:.2f})"


def _note(measured: Measured, outcome: Outcome, limits: Limits) -> str:
    best = measured.candidate == outcome.best.candidate
    rank = ["chosen" if measured.fits(limits) else "nearest"] if best else []
    return "; ".join([*rank, *misses(measured, limits)])


def _cells(measured: Measured) -> tuple[str, ...]:
    name, count = str(measured.candidate), str(len(measured.trials))
    if not measured.levels:
        return (name, count, *("" for _ in _HEAD[2:]))
    most, rates, p99s = measured.levels[0], measured.rates, measured.p99s_s
    pss = measured.pss_bytes
    return (
        name,
        count,
        rate(measured.images_per_s),
        f"({rate(min(rates))} to {rate(max(rates))})",
        milliseconds(most.p50_s),
        milliseconds(measured.p99_s),
        f"({milliseconds(min(p99s))} to {milliseconds(max(p99s))})",
        mebibytes(measured.rss_bytes),
        mebibytes(pss) if pss is not None else "",
        f"{measured.cpu_ms:.2f} ms",
    )


def _level_cells(level: Level) -> tuple[str, ...]:
    p999_s = level.latencies.percentile_s(0.999)
    latencies = (milliseconds(seconds) for seconds in (level.p50_s, level.p99_s, p999_s))
    return (str(level.connections), rate(level.images_per_s), *latencies)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def as_json(outcome: Outcome, limits: Limits) -> dict[str, Any]:
    """All of it, for programs; durations in milliseconds."""
    return {
        "limits": asdict(limits),
        "fits": outcome.best.fits(limits),
        "chosen": asdict(outcome.best.candidate),
        "misses": misses(outcome.best, limits),
        "steps": [_step_as_json(step) for step in outcome.steps],
        "candidates": [_as_json(one, limits) for one in outcome.board],
    }


def _step_as_json(step: Step) -> dict[str, Any]:
    return {
        "setting": step.setting,
        "incumbent": asdict(step.incumbent),
        "winner": asdict(step.winner),
        "challengers": [
            {"settings": asdict(one), "ratios": list(ratios)} for one, ratios in step.ratios.items()
        ],
    }


def level_as_json(level: Level) -> dict[str, Any]:
    """One number of connections."""
    return {
        "connections": level.connections,
        "images_per_s": level.images_per_s,
        "p50_ms": level.p50_s * 1e3,
        "p99_ms": level.p99_s * 1e3,
        "p999_ms": level.latencies.percentile_s(0.999) * 1e3,
    }


def _as_json(measured: Measured, limits: Limits) -> dict[str, Any]:
    return {
        "settings": asdict(measured.candidate),
        "fits": measured.fits(limits),
        "failure": measured.failure or None,
        "images_per_s": measured.rates,
        "p99_ms": [seconds * 1e3 for seconds in measured.p99s_s],
        "levels": [level_as_json(level) for level in measured.levels],
        "rss_bytes": measured.rss_bytes,
        "pss_bytes": measured.pss_bytes,
        "cpu_ms_an_image": measured.cpu_ms,
        "other_cpus": [trial.other_cpus for trial in measured.trials],
    }

"""Write the settings file: what was chosen, and in comments why."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from service.settings import Settings
from service.tuning.report import (
    describe,
    describe_costs,
    describe_gain,
    describe_limits,
    describe_others,
    fault,
    spread,
    table,
)
from service.tuning.search import Outcome, Step
from service.tuning.trials import TUNED, Candidate, Limits, Measured

_WIDTH = 98
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Circumstances:
    """What the figures hold for: lines of the header, by their names."""

    command: str
    date: str
    lines: Mapping[str, str]


def assignments(settings: Settings, candidate: Candidate) -> list[str]:
    """TOML lines of all settings that are not as by default, and of those that are tuned."""
    return [*_kept(settings), *(f"{name} = {value}" for name, value in asdict(candidate).items())]


def settings_file(
    settings: Settings, outcome: Outcome, limits: Limits, about: Circumstances
) -> str:
    """The whole file.

    Args:
        settings: All settings that are not tuned.
        outcome: What was chosen and measured.
        limits: What was asked for.
        about: What the figures hold for.
    """
    lines = [
        *_comment(f"Written by '{about.command}' on {about.date}."),
        *_comment("Serve with it: ADARESNET_CONFIG=<this file> adaresnet serve"),
        "#",
        *(line for name, text in about.lines.items() for line in _comment(f"{name}: {text}")),
        *_comment(f"meanwhile: {describe_others(outcome)}"),
        *_comment(f"asked: {describe_limits(limits)}"),
        *_comment(f"found: {describe(outcome.best)}{fault(outcome.best, limits)}"),
        *_comment(f"gained: {describe_gain(outcome)}"),
        "",
    ]
    kept = _kept(settings)
    if kept:
        lines += [*_comment("As given, not tuned."), *kept, ""]
    board = {one.candidate: one for one in outcome.board}
    for name in TUNED:
        lines += _reason(name, outcome, board, limits)
        lines += [f"{name} = {getattr(outcome.best.candidate, name)}", ""]
    lines += _comment("Everything that was measured:")
    lines += [f"#   {_CONTROL.sub(' ', line)}".rstrip() for line in table(outcome, limits)]
    return "\n".join(lines) + "\n"


def _kept(settings: Settings) -> list[str]:
    lines = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name not in TUNED and value != field.default:
            lines.append(f"{name} = {_toml(value)}")
    return lines


def _toml(value: object) -> str:
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    text = str(value.resolve()) if isinstance(value, Path) else str(value)
    # JSON's strings are TOML's, but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _reason(
    name: str, outcome: Outcome, board: Mapping[Candidate, Measured], limits: Limits
) -> list[str]:
    """Why a setting has its value: what was tried for it."""
    step = next((one for one in outcome.steps if one.setting == name), None)
    if step is None:
        return _comment("As given, or nothing else is worth a trial here.")
    value, before = getattr(outcome.best.candidate, name), getattr(step.incumbent, name)
    if value != before:
        text = "Clearly better than what was tried beside it."
    elif step.winner != step.incumbent:
        text = "Changed in vain: all changes together were not clearly better in the end."
    else:
        text = f"Nothing that was tried beside {before} was clearly better."
    lines = _comment(text + _beside(step))
    lines += _comment(f"  {before}: {describe(board[step.incumbent])}")
    for one, ratios in step.ratios.items():
        figures = f"{spread(ratios)} its images/s, {describe_costs(board[one])}"
        if board[one].failure:
            figures = "failed"
        text = f"  {getattr(one, name)}: {figures}{fault(board[one], limits)}"
        lines += _comment(text)
    return lines


def _beside(step: Step) -> str:
    return "" if step.incumbent == Candidate() else f" Measured beside {step.incumbent}:"


def _comment(text: str) -> list[str]:
    """Comment lines; nothing that a name brings along can end one."""
    clean = _CONTROL.sub(" ", text)
    indent = " " * (len(clean) - len(clean.lstrip()))
    wrapped = textwrap.wrap(
        clean.strip(), _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False
    )
    return [f"# {indent}{'  ' if number else ''}{line}" for number, line in enumerate(wrapped)]

"""Where each setting came from."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from service.environment import ENV_PREFIX
from service.settings import Settings

# A report is sent to others, whom these need not help to try keys out.
_NOT_SHOWN = ("api_keys",)


@dataclass(frozen=True)
class Origin:
    """A setting, its value, and who set it.

    Attributes:
        name: Of the setting.
        value: As text; that of keys is not shown.
        source: ``default``, ``flag``, the variable's name, or the file's.
    """

    name: str
    value: str
    source: str


def find_origins(settings: Settings, argv: list[str]) -> list[Origin]:
    """Say of every setting where its value came from.

    Args:
        settings: As they were read.
        argv: The flags that they were read from, besides the environment and the TOML file.
    """
    defaults = Settings.model_construct()
    in_file = _names_in_file()
    found = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        source = os.environ[ENV_PREFIX + "CONFIG"] if name in in_file else "default"
        variable = ENV_PREFIX + name.upper()
        if variable in os.environ:
            source = variable
        if (value != getattr(defaults, name) and source == "default") or _flag_given(name, argv):
            source = "flag"
        found.append(Origin(name, _shown(name, value), source))
    return found


def _names_in_file() -> set[str]:
    config = os.environ.get(ENV_PREFIX + "CONFIG")
    return set(tomllib.loads(Path(config).read_text())) if config else set()


def _flag_given(name: str, argv: list[str]) -> bool:
    flags = {f"--{name.replace('_', '-')}", f"--no-{name.replace('_', '-')}"}
    return any(word.partition("=")[0] in flags for word in argv)


def _shown(name: str, value: object) -> str:
    if value and name in _NOT_SHOWN:
        return "(set, not shown)"
    return "" if value is None else str(value)

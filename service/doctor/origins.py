"""Where each setting came from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pydantic_settings import CliSettingsSource, TomlConfigSettingsSource

from service.environment import ENV_PREFIX
from service.settings import Environment, Settings

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
    # What reads them says what it found: of each there are several spellings.
    config = os.environ.get(ENV_PREFIX + "CONFIG")
    flags = CliSettingsSource[Any](Settings, cli_parse_args=argv)()
    variables = {name: _variable(name) for name in Environment(Settings)()}
    in_file = TomlConfigSettingsSource(Settings, config)() if config else {}
    found = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if name in flags:
            source = "flag"
        elif name in variables:
            source = variables[name]
        elif config and name in in_file:
            source = config
        else:  # a flag of KServe has set another one besides its own
            source = "default" if value == getattr(defaults, name) else "flag"
        found.append(Origin(name, _shown(name, value), source))
    return found


def _variable(name: str) -> str:
    """The variable that a setting was read from; of several spellings the last one counts."""
    wanted = ENV_PREFIX + name.upper()
    return [variable for variable in os.environ if variable.upper() == wanted][-1]


def _shown(name: str, value: object) -> str:
    if value and name in _NOT_SHOWN:
        return "(set, not shown)"
    return "" if value is None else str(value)

"""Names that mean no setting, and the setting that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

from service.environment import ENV_PREFIX

# Variables that other commands, the client and the tests read.
_OTHERS = frozenset(
    ("CONFIG", "URL", "API_KEY", "JSON", "MODEL", "VERSION", "TOP_K", "TIMEOUT", "TEST_DATA")
)
# What Kubernetes tells every container about a Service that is named "adaresnet".
_OF_A_SERVICE = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)")
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_LIKE = 0.6


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant; None where nothing is like it."""
    spelt = {each.replace("-", "_").lower(): each for each in sorted(known)}
    wanted = name.replace("-", "_").lower()
    found = difflib.get_close_matches(wanted, spelt, n=1, cutoff=_LIKE)
    if not found:  # a part of a longer name, perhaps
        found = [each for each in spelt if len(wanted) > 2 and wanted in each][:1]
    return spelt[found[0]] if found else None


def strays(variables: Iterable[str], settings: Collection[str]) -> list[str]:
    """A sentence for every variable that looks like a setting and is none.

    Args:
        variables: Names in the environment.
        settings: Names of settings.
    """
    known = {name.upper() for name in settings} | _OTHERS
    found = []
    for variable in sorted(variables):
        name = variable.upper().removeprefix(ENV_PREFIX)
        if not variable.upper().startswith(ENV_PREFIX) or name in known:
            continue
        if not _OF_A_SERVICE.fullmatch(name):
            meant = nearest(name, known)
            found.append(
                f"{variable} is no setting and is ignored"
                + (f"; did you mean {ENV_PREFIX}{meant}?" if meant else "")
            )
    return found


def refused_flags(message: str, settings: Collection[str]) -> str:
    """One line for what the parser of the command line says.

    Args:
        message: Of the parser, such as "unrecognized arguments: --prot 1".
        settings: Names of settings.
    """
    message = message.removeprefix("error parsing CLI: ")
    if not message.startswith("unrecognized arguments: "):
        return " ".join(message.split())
    words = message.removeprefix("unrecognized arguments: ").split()
    flag = next((word for word in words if _FLAG.match(word)), None)
    if flag is None:
        return f"{words[0]!r} is no flag; settings are given as --name value"
    flag = flag.partition("=")[0]
    flags = [f"--{name.replace('_', '-')}" for name in settings]
    meant = nearest(flag, flags)
    return f"there is no flag {flag}" + (f"; did you mean {meant}?" if meant else "")

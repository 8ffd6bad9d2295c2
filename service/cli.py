"""The ``adaresnet`` command: finds its subcommands by entry point and hands over.

The service registers its own, ``training`` registers more; neither imports the other for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from typing import NoReturn

COMMAND_GROUP = "adaresnet.commands"
USAGE_ERROR = 2

Command = Callable[[list[str]], int]


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns its exit status: 0, 1 for a failure, 2 for wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    commands = {entry.name: entry for entry in metadata.entry_points(group=COMMAND_GROUP)}
    if argv and argv[0] == "--version":
        print(metadata.version("adaresnet"))
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(commands))
        return 0 if argv else USAGE_ERROR
    name, *rest = argv
    if name not in commands:
        known = ", ".join(sorted(commands))
        print(f"adaresnet: no command {name!r}; there are {known}", file=sys.stderr)
        return USAGE_ERROR
    try:
        command: Command = commands[name].load()
        return command(rest)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def fail(program: str, message: str, status: int = 1) -> int:
    """Print one line on standard error and return the exit status."""
    print(f"{program}: {message}", file=sys.stderr)
    return status


def run() -> NoReturn:
    """Entry point of the installed script."""
    sys.exit(main())


def _help(commands: dict[str, metadata.EntryPoint]) -> str:
    lines = ["usage: adaresnet COMMAND ...", "", "commands:"]
    for name in sorted(commands):
        summary = (commands[name].load().__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:<10} {summary}")
    lines += ["", "'adaresnet COMMAND --help' says more."]
    return "\n".join(lines)

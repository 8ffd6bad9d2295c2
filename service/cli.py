"""The ``adaresnet`` command: finds its subcommands by entry point and hands over.

The service registers its own, ``training`` registers more; neither imports the other for it. What
a subcommand needs may be missing, for it is in an extra; then one line says which to install.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.abc import InspectLoader
from typing import NoReturn

COMMAND_GROUP = "adaresnet.commands"
USAGE_ERROR = 2
# As a shell counts the signals SIGINT and SIGPIPE.
INTERRUPTED, BROKEN_PIPE = 130, 141

Command = Callable[[list[str]], int]

_OURS = ("service", "training")


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
        status = command(rest)
        sys.stdout.flush()  # whoever reads may have gone
    except ModuleNotFoundError as error:
        if (line := missing_extra(error, commands[name].module)) is None:
            raise
        return fail(f"adaresnet {name}", line)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return BROKEN_PIPE
    return status


def fail(program: str, message: str, status: int = 1) -> int:
    """Print one line on standard error and return the exit status."""
    print(f"{program}: {message}", file=sys.stderr)
    return status


def explain(error: Exception) -> str:
    """What happened, and what would be right where the error says that."""
    return f"{error} {getattr(error, 'hint', '')}".strip()


def missing_extra(error: ModuleNotFoundError, module: str) -> str | None:
    """One line that says what to install; None where it is our own module that is missing.

    Args:
        error: What the import raised.
        module: Of the command.
    """
    package = (error.name or "").partition(".")[0]
    if not package or package in _OURS:
        return None
    extras = "adaresnet[cpu] or adaresnet[gpu]"
    if module.startswith("training.") and package != "onnxruntime":
        extras = "adaresnet[train]"
    return f"{package} is missing: install {extras}"


def run() -> NoReturn:
    """Entry point of the installed script."""
    sys.exit(main())


def _help(commands: dict[str, metadata.EntryPoint]) -> str:
    width = max(10, *map(len, commands))
    lines = ["usage: adaresnet COMMAND ...", "", "commands:"]
    lines += [f"  {name:<{width}} {_summary(commands[name])}" for name in sorted(commands)]
    lines += ["", "'adaresnet COMMAND --help' says more."]
    return "\n".join(lines)


def _summary(entry: metadata.EntryPoint) -> str:
    """First line of a command's docstring, read and not imported: its needs may be missing."""
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not isinstance(spec.loader, InspectLoader):
        return ""
    for node in ast.parse(spec.loader.get_source(entry.module) or "").body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _forget_output() -> None:
    """Let what is left unwritten go nowhere: the interpreter would complain at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())

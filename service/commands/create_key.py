"""``adaresnet create-key``: draw an API key, and the line that makes a service know it."""

from __future__ import annotations

import argparse
import sys

from service.api.auth.callers import PREDICT, SCOPES
from service.api.auth.keys import NAME, line_of, new_key

_PROGRAM = "adaresnet create-key"


def create_key(argv: list[str]) -> int:
    """Draw an API key; the service is told its hash only."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Draw an API key. The key goes to whoever calls and is shown this once; the"
        " line goes into the file that api_keys_file names.",
    )
    parser.add_argument("--name", type=_name, required=True, help="whose key it is")
    parser.add_argument(
        "--scope",
        type=_scopes,
        default=[PREDICT],
        help="what it may do, divided by commas: predict, manage (default: predict)",
    )
    args = parser.parse_args(argv)
    key = new_key()
    # Two streams, so that ">> keys.toml" takes the line and leaves the key on the screen.
    print(f"key, shown this once: {key}", file=sys.stderr)
    print(line_of(args.name, key, args.scope))
    return 0


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:64]!r} has more than letters, digits, '_', '-'")
    return text


def _scopes(text: str) -> list[str]:
    scopes = [scope.strip() for scope in text.split(",")]
    for scope in scopes:
        if scope not in SCOPES:
            raise argparse.ArgumentTypeError(f"{scope!r} is none of {', '.join(SCOPES)}")
    return list(dict.fromkeys(scopes))

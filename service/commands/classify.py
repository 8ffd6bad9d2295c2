"""``adaresnet classify``: name what is on pictures, here or on a server."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from service.bulk.paths import STDIN, find_images, read_list
from service.bulk.progress import Progress
from service.bulk.rows import path_of
from service.bulk.writers import FormatError, Write, format_of, writing_file, writing_output
from service.cli import USAGE_ERROR, fail, missing_extra
from service.commands.options import (
    add_model_source,
    client_of,
    environment,
    local_settings,
    url_of,
)

if TYPE_CHECKING:
    from service.client import ImageLike, Result

_PROGRAM = "adaresnet classify"
_TIMEOUT_S = 60.0
_LISTED = 20  # failures on standard error where a column of the output has them all
_EPILOG = (
    "Exit status: 0 all were classified, 1 some could not be, or there was no answer at all,"
    " 2 wrong usage, 130 interrupted."
)

Ask = Callable[[Iterable["ImageLike"]], Generator["Result", None, None]]


def classify(argv: list[str]) -> int:
    """Classify image files and folders, with the models here or those of a server."""
    args = _parser().parse_args(argv)
    try:
        form = _check(args)
        with contextlib.ExitStack() as stack:
            paths = _paths(args, stack)
            return _classify(args, form, paths)
    except _UsageError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        line = missing_extra(error, __name__)
        if line is None:
            raise
        return fail(_PROGRAM, f"{line}, or ask a server with --url")
    except Exception as error:  # one line for whatever keeps us from an answer
        hint = getattr(error, "hint", "")
        text = str(error)
        return fail(_PROGRAM, text if hint in text else f"{text} {hint}")


class _UsageError(Exception):
    """Flags that don't go together, or a value that is not allowed."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        _PROGRAM, description=classify.__doc__, epilog=_EPILOG, allow_abbrev=False
    )
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="file, folder, or - for one on standard input")
    add("--files-from", metavar="FILE", help="take paths from here too, one a line; - is stdin")
    add("-0", "--null", action="store_true", help="in --files-from, NUL ends a path, not a line")
    add("-r", "--recursive", action="store_true", help="take folders in folders too")
    add("--model", help="model name; default: the first")
    add("--version", type=int, help="model version; default: the highest")
    add("--top-k", type=int, default=5, help="classes an image (default: 5)")
    add_model_source(parser)
    add(
        "--timeout",
        type=float,
        default=_TIMEOUT_S,
        metavar="SECONDS",
        help=f"for each request to --url, retries included (default: {_TIMEOUT_S:g})",
    )
    add(
        "--format",
        choices=("text", "jsonl", "csv"),
        help="of standard output; default: text on a terminal, else jsonl; --json is jsonl",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="write a row an image there: .jsonl, .csv or .parquet",
    )
    parser.set_defaults(**environment("model", "version", "top_k", "timeout"))
    return parser


def _check(args: argparse.Namespace) -> str:
    """See that the flags make sense; returns the format that is written."""
    if args.top_k < 1:
        raise _UsageError(f"--top-k is {args.top_k}; it must be at least 1")
    if not args.timeout > 0:
        raise _UsageError(f"--timeout is {args.timeout:g}; it must be more than 0")
    if not args.paths and args.files_from is None:
        raise _UsageError("give a file, a folder, - for standard input, or --files-from")
    if args.paths.count(STDIN) + (args.files_from == STDIN) > 1:
        raise _UsageError("standard input is one picture or the list of --files-from, and once")
    if args.null and args.files_from is None:
        raise _UsageError("-0 says how --files-from is divided; it is not given")
    if args.output is None:
        default = "text" if sys.stdout.isatty() else "jsonl"
        form: str = args.format or ("jsonl" if args.json else default)
        return form
    if args.format is not None:
        raise _UsageError("--format is that of standard output; the name of --output says its own")
    if not args.output.parent.is_dir() or args.output.is_dir():
        raise _UsageError(f"--output {args.output} is no file in a folder that exists")
    try:
        return format_of(args.output)
    except FormatError as error:
        raise _UsageError(str(error)) from None


def _paths(args: argparse.Namespace, stack: contextlib.ExitStack) -> Iterator[str]:
    """All paths that are meant, folders replaced by their pictures."""
    listed: Iterable[str] = ()
    if args.files_from is not None:
        stream: BinaryIO = sys.stdin.buffer
        if args.files_from != STDIN:
            try:
                stream = Path(args.files_from).open("rb")  # noqa: SIM115, the stack closes it
                stack.callback(stream.close)
            except OSError as error:
                raise _UsageError(f"--files-from {args.files_from}: {error.strerror}") from None
        listed = read_list(stream, null=args.null)
    return find_images(chain(args.paths, listed), recursive=args.recursive)


def _classify(args: argparse.Namespace, form: str, paths: Iterator[str]) -> int:
    shown = sys.stderr.isatty() and (args.output is not None or not sys.stdout.isatty())
    progress = Progress(shown=shown)
    if args.files_from is None:
        progress.count(find_images(args.paths, recursive=args.recursive))
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        try:
            ask = _server(args, url, stack) if (url := url_of(args)) else _engine(args)
        except ValueError as error:  # of a setting
            raise _UsageError(str(error)) from None
        write = stack.enter_context(_output(args, form))
        images = (sys.stdin.buffer.read() if path == STDIN else path for path in paths)
        results = stack.enter_context(contextlib.closing(ask(images)))
        for result in results:
            write(result)
            _tell(result, progress, everything=form == "text")
    if not progress.done and args.files_from is None:
        return fail(_PROGRAM, f"there is no picture in {', '.join(args.paths)}", USAGE_ERROR)
    if args.output is not None:
        if progress.failed > _LISTED:
            fail(_PROGRAM, f"{progress.failed - _LISTED:,} more failed, see the column 'error'")
        print(f"wrote {args.output}: {progress.summary()}", file=sys.stderr)
    return 1 if progress.failed else 0


def _output(args: argparse.Namespace, form: str) -> AbstractContextManager[Write]:
    if args.output is None:
        return writing_output(form, args.top_k)
    return writing_file(args.output, form, args.top_k)


def _tell(result: Result, progress: Progress, *, everything: bool) -> None:
    """Count an image, and name one that failed."""
    error = result.error
    progress.advance(failed=error is not None)
    if error is not None and (everything or progress.failed <= _LISTED):
        reason = f"{error.detail} {error.hint}".strip()
        progress.say(f"{_PROGRAM}: {path_of(result)}: {reason}")


def _server(args: argparse.Namespace, url: str, stack: contextlib.ExitStack) -> Ask:
    client = stack.enter_context(client_of(args, url))

    def ask(images: Iterable[ImageLike]) -> Generator[Result, None, None]:
        return client.classify_many(
            images,
            model=args.model,
            version=args.version,
            top_k=args.top_k,
            timeout=args.timeout,
        )

    return ask


def _engine(args: argparse.Namespace) -> Ask:
    from service.api.app import engine_options
    from service.bulk.local import classify_here

    options = engine_options(local_settings(args))

    def ask(images: Iterable[ImageLike]) -> Generator[Result, None, None]:
        return classify_here(
            options,
            lambda predictor: predictor.repository.find(args.model, args.version),
            images,
            args.top_k,
        )

    return ask

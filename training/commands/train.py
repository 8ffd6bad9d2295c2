"""``adaresnet train``. Importing this file needs no torch; running the command does."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from functools import partial
from types import FrameType

from service.cli import USAGE_ERROR, fail
from training.commands.missing import missing

_PROGRAM = "adaresnet train"
_STOPPED = 130  # as a shell counts an interrupt


def train(argv: list[str]) -> int:
    """Train an adaptive residual network on labelled images."""
    from pydantic import ValidationError

    from training.config import load_config

    recipe, rest = _split_recipe(argv)
    try:
        config = load_config(rest, recipe, program=_PROGRAM)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        return fail(_PROGRAM, f"--{name}: {message}" if name else message, USAGE_ERROR)
    except ValueError as error:
        return fail(_PROGRAM, str(error), USAGE_ERROR)

    if (line := missing("torch")) is not None:
        return fail(_PROGRAM, line)
    from tqdm import tqdm

    from training import loop
    from training.allocator import keep_freed_memory
    from training.checkpoint import CheckpointError, checkpoint_path
    from training.data.dataset import DataError
    from training.errors import Stopped, TrainingError
    from training.processes import place

    keep_freed_memory()
    index, count = place()
    program = _PROGRAM if index == 0 else f"{_PROGRAM} (process {index})"
    signals = _Signals(launched=count > 1, quiet=index > 0)
    try:
        write = partial(tqdm.write, file=sys.stderr)
        state = loop.fit(config, write, lambda: signals.asked)
    except Stopped as stopped:
        if index > 0:
            return _STOPPED
        hint = f"{stopped}; --resume goes on from there, in {config.out}"
        return fail(_PROGRAM, hint, _STOPPED)
    except (Exception, KeyboardInterrupt) as error:
        if signals.at_once:  # native code makes other exceptions of KeyboardInterrupt
            saved = checkpoint_path(config.out).is_file()
            hint = f"--resume goes on from the last save in {config.out}"
            return fail(_PROGRAM, f"stopped; {hint if saved else 'nothing saved'}", _STOPPED)
        if isinstance(error, (TrainingError, CheckpointError, DataError, OSError)):
            return fail(program, str(error))
        raise
    last = state.history[-1]
    if index > 0:
        return 0
    print(f"test accuracy {last.test_accuracy:.2%} after {last.epoch} epochs; run in {config.out}")
    return 0


class _Signals:
    """The first Ctrl-C or SIGTERM asks the run to save and stop; the second stops at once.

    Attributes:
        asked: One came.
        at_once: A second one came, and raised KeyboardInterrupt.
    """

    def __init__(self, *, launched: bool, quiet: bool) -> None:
        """Listen from now on.

        Args:
            launched: A launcher watches this process. It passes on a signal that the process had
                from the terminal already, so no signal stops at once; the launcher itself kills
                after 30 s.
            quiet: Say nothing.
        """
        self.asked = self.at_once = False
        self._launched, self._quiet = launched, quiet
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked and not self._launched:
            self.at_once = True
            raise KeyboardInterrupt
        first, self.asked = not self.asked, True
        if first and not self._quiet:
            again = "" if self._launched else "; once more to stop at once"
            # print may have been interrupted itself, and does not allow a second one inside.
            os.write(sys.stderr.fileno(), f"{_PROGRAM}: stopping after this step{again}\n".encode())


def _split_recipe(argv: list[str]) -> tuple[str | None, list[str]]:
    """Take --recipe out: it says where values come from, and is none itself."""
    parser = argparse.ArgumentParser(_PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    args, rest = parser.parse_known_args(argv)
    if {"-h", "--help"} & set(rest):
        print("--recipe NAME|FILE  TOML file with values for the flags below\n")
    return args.recipe, rest

"""Write pictures and JSON into a folder, with matplotlib's object API and no global state."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from training.report.errors import ReportError

DPI = 120
_LONGEST_NAME = 24
_LONGEST_PATH = 48


def check_folder(out: Path) -> None:
    """Make a folder, and find out before the work and not after it that it can't be written.

    Raises:
        ReportError: It can't.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ReportError(f"--out {out} can't be written: {error.strerror}") from None


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that belongs to no window and no registry."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        OSError: The file can't be written.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)  # names come from folders: "$1 and $2" is no formula
    with warnings.catch_warnings():
        # A class named in a script that the font lacks shows as boxes; the numbers still count.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(path, format="png")


def short_name(name: str) -> str:
    """A name that fits beside an axis."""
    plain = " ".join(name.split())
    return plain if len(plain) <= _LONGEST_NAME else plain[: _LONGEST_NAME - 1] + "…"


def short_path(path: str) -> str:
    """A path that fits beside an axis; its end tells runs apart."""
    return path if len(path) <= _LONGEST_PATH else "…" + path[1 - _LONGEST_PATH :]

"""Find people's own pictures to measure with."""

from __future__ import annotations

from pathlib import Path

MAX_PICTURES = 256  # they are held in memory


def find_pictures(where: Path) -> list[Path]:
    """A file, or the files below a folder: at most ``MAX_PICTURES``, evenly taken.

    Raises:
        ValueError: There is none.
    """
    if where.is_file():
        return [where]
    files = (path for path in where.rglob("*") if path.is_file())
    found = sorted(path for path in files if "/." not in f"/{path.relative_to(where)}")
    if not found:
        raise ValueError(f"images: there are none in {where}")
    step = max(1.0, len(found) / MAX_PICTURES)
    return [found[int(number * step)] for number in range(min(len(found), MAX_PICTURES))]

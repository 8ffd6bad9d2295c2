"""Encoded pictures, wherever they lie: as files in a folder, or in a column of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Encoded = bytes | OSError  # what was read, or why nothing could be


class Pictures(Protocol):
    """Encoded pictures by row; every method may be called from several threads at once."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What a person finds the picture by: a file name, or a split and row."""
        ...

    def encoded(self, rows: Sequence[int]) -> Iterator[Encoded]:
        """File contents in the order of ``rows``; an OSError in place of what can't be read."""
        ...


@dataclass(frozen=True)
class PictureFiles:
    """Files under one folder.

    Attributes:
        root: The folder.
        paths: Files, relative to it, as ``os.walk`` names them.
    """

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """Path under the folder, fit to print."""
        return printable(self.paths[row])

    def encoded(self, rows: Sequence[int]) -> Iterator[Encoded]:
        """Read whole files, each only when it is asked for: photos are large."""
        for row in rows:
            yield _read(str(self.root / self.paths[row]))


class PictureTable:
    """An image column of a ``datasets.Dataset``, left encoded."""

    def __init__(self, rows: Any, column: str, split: str) -> None:
        """Take the column; ``split`` goes into the names of pictures that have no path."""
        import datasets

        # Only this column: a batch of rows would convert every other one too.
        self._rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self._column = column
        self._split = split

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, row: int) -> str:
        """Split and row, with the path where the table has one."""
        cell = self._rows[row][self._column]
        path = cell["path"] if cell else None
        return f"{self._split} row {row}" + (f" ({path})" if path else "")

    def encoded(self, rows: Sequence[int]) -> Iterator[Encoded]:
        """Take bytes from the table, or read the file that a cell names."""
        first, last = rows[0], rows[-1] + 1
        in_order = list(rows) == list(range(first, last))  # a slice is read without a copy
        cells = self._rows[slice(first, last) if in_order else list(rows)][self._column]
        yield from map(_cell_bytes, cells)


def printable(name: str) -> str:
    """Text of a file name, with ? for bytes that are no UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _cell_bytes(cell: dict[str, Any] | None) -> Encoded:
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        return OSError(0, "the table has no picture in this row")
    data: bytes | None = cell["bytes"]
    return data if data is not None else _read(cell["path"])


def _read(path: str) -> Encoded:
    try:
        if "://" not in path:
            return Path(path).read_bytes()
        import fsspec  # type: ignore[import-untyped]  # comes with 'datasets', which leaves pictures inside archives

        with fsspec.open(path, "rb") as file:
            data: bytes = file.read()
        return data
    except OSError as error:
        return error

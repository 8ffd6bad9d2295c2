"""Write results one by one, in the format that is asked for; a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from service.bulk.rows import Row, cell_names, cells_of, row_of, text_of
from service.client.results import Result

Write = Callable[[Result], None]

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_ROW_GROUP = 10_000  # rows of Parquet that are held until they are written together
_NO_PYARROW = "pyarrow is missing: install adaresnet[parquet], or write .csv or .jsonl"


class FormatError(ValueError):
    """A file's name asks for no format, or for one that can't be written here."""


def format_of(path: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        FormatError: None that there is.
    """
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise FormatError(f"--output {path}: the name must end in .jsonl, .csv or .parquet")
    if form == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401, before any picture is classified in vain
        except ModuleNotFoundError:
            raise FormatError(_NO_PYARROW) from None
    return form


@contextlib.contextmanager
def writing_output(form: str, top_k: int) -> Iterator[Write]:
    """Write to standard output as ``text``, ``jsonl`` or ``csv``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Labels and names of files have letters that a terminal's encoding may lack.
        encoding = sys.stdout.encoding if form == "text" else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    yield _text_writer(sys.stdout, form, top_k)


@contextlib.contextmanager
def writing_file(path: Path, form: str, top_k: int) -> Iterator[Write]:
    """Write to a file beside ``path`` that takes its name once all is in it.

    Where the context ends with an error, that file goes, and one that was there stays.

    Raises:
        OSError: It can't be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            if form == "parquet":
                with _parquet_writer(file) as write:
                    yield write
            else:
                text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="\n")
                yield _text_writer(text, form, top_k)
                text.detach()
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _text_writer(stream: TextIO, form: str, top_k: int) -> Write:
    if form == "csv":
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(cell_names(top_k))
        return lambda result: rows.writerow(cells_of(row_of(result), top_k))

    def write(result: Result) -> None:
        if form == "jsonl":
            stream.write(json.dumps(row_of(result), ensure_ascii=False) + "\n")
        elif result.error is None:
            stream.write(text_of(result) + "\n")

    return write


@contextlib.contextmanager
def _parquet_writer(file: BinaryIO) -> Iterator[Write]:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        {
            "path": pyarrow.string(),
            "label": pyarrow.string(),
            "probability": pyarrow.float32(),
            "class_id": pyarrow.int32(),
            "labels": pyarrow.list_(pyarrow.string()),
            "probabilities": pyarrow.list_(pyarrow.float32()),
            "class_ids": pyarrow.list_(pyarrow.int32()),
            "model": pyarrow.string(),
            "version": pyarrow.int64(),
            "error": pyarrow.string(),
        }
    )
    rows: list[Row] = []
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            rows.clear()

        def write(result: Result) -> None:
            rows.append(row_of(result))
            if len(rows) == _ROW_GROUP:
                flush()

        yield write
        if rows:
            flush()

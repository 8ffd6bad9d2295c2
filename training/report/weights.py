"""The report on learned scales: read runs, measure them on held-out data, say it all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.checkpoint import RunState
from training.data.dataset import DataError, ImageData
from training.report.errors import ReportError
from training.report.evaluation import check_classes
from training.report.evaluation_text import align
from training.report.paper_tables import PaperTables, make_tables
from training.report.runs import OpenRun, Say, open_run
from training.report.scales import RunScales, ScaleCourse, read_scales, with_shares
from training.report.skip_share import BlockShare
from training.start import load_data_of

_DECIDES_DATA = {"data", "resize_rule", "seed", "bad_files", "image_column", "label_column"}
_HEADER = ("BLOCK", "KIND", "SCALE", "START", "END", "MIN", "MAX", "SIGN", "SKIP SHARE", "W/GAIN")


@dataclass(frozen=True)
class WeightsRequest:
    """Which runs to look at.

    Attributes:
        runs: Run folders or checkpoint files.
        data: Where their data is now; None: where each run had it.
        images: Most held-out images to measure skip shares on; 0 measures none.
        table: Make the paper's tables, too.
    """

    runs: tuple[Path, ...]
    data: str | None = None
    images: int = 1000
    table: bool = False


class WeightsReport(BaseModel):
    """What came out, as ``--json`` prints it.

    Attributes:
        runs: One entry a run.
        tables: The paper's tables, where they were asked for.
    """

    model_config = ConfigDict(frozen=True)

    runs: list[RunScales]
    tables: PaperTables | None = None


class _DataShelf:
    """Data sets that were read: rounds of one data set decode it once."""

    def __init__(self, source: str | None, say: Say) -> None:
        self._source, self._say = source, say
        self._read: dict[tuple[str, int], ImageData | DataError] = {}

    def data_of(self, state: RunState) -> ImageData:
        """The run's data.

        Raises:
            DataError: It can't be read.
        """
        wanted = state.config.model_dump_json(include=_DECIDES_DATA)
        key = (wanted, state.image_px)
        if key not in self._read:
            try:
                self._read[key] = load_data_of(state, self._source, self._say)
            except DataError as error:
                self._read[key] = error
        found = self._read[key]
        if isinstance(found, DataError):
            raise found
        return found


def report_weights(request: WeightsRequest, say: Say) -> WeightsReport:
    """Read every run, and measure its skip shares where its data can be read.

    Raises:
        ReportError: A run's weights don't fit its network, or can't be put in the paper's tables.
        CheckpointError: A checkpoint can't be read.
        TrainingError: A run's network can't be built any more.
    """
    opened = [open_run(path) for path in request.runs]
    found = [read_scales(run) for run in opened]
    tables = make_tables(found) if request.table else None  # before the data, which takes long
    shelf = _DataShelf(request.data, say)
    if request.images:
        found = [
            _measured(scales, run, request, shelf, say)
            for scales, run in zip(found, opened, strict=True)
        ]
    return WeightsReport(runs=found, tables=tables)


def _measured(
    scales: RunScales, run: OpenRun, request: WeightsRequest, shelf: _DataShelf, say: Say
) -> RunScales:
    try:
        data = shelf.data_of(run.state)
        check_classes(run.state.class_names, data.class_names)
        return with_shares(scales, run, data.test, request.images)
    except (DataError, ReportError, OSError) as error:
        # What the run recorded needs no data, and is most of the report.
        say(f"no skip shares for {run.path}: {error}")
        return scales


def weights_text(found: RunScales) -> str:
    """One run as a person reads it in a terminal."""
    shares = {share.block: share for share in found.shares}
    rows: list[tuple[str, ...]] = [_HEADER]
    shown: set[str] = set()
    for scale in found.scales:
        share = None if scale.block in shown else shares.get(scale.block)
        shown.add(scale.block)
        rows.append((*_scale_cells(scale), *_share_cells(share)))
    measured = (
        f"skip shares on {found.images:,} held-out images" if found.shares else "no skip shares"
    )
    title = f"{found.run}: {found.network} on {found.data}, {found.epochs} epochs; {measured}"
    return "\n".join([title, *align(rows, left=3)])


def _scale_cells(scale: ScaleCourse) -> tuple[str, ...]:
    several = scale.channels > 1
    return (
        scale.block,
        scale.kind,
        f"{scale.term} x {scale.channels}" if several else scale.term,
        f"{scale.start.mean:+.4f}",
        f"{scale.end.mean:+.4f}",
        f"{scale.end.low:+.4f}" if several else "",
        f"{scale.end.high:+.4f}" if several else "",
        _sign(scale),
    )


def _sign(scale: ScaleCourse) -> str:
    if scale.channels > 1:
        return f"{scale.negative} -" if scale.negative else "+"
    return "-" if scale.negative else "+" if scale.end.mean else "0"


def _share_cells(share: BlockShare | None) -> tuple[str, str]:
    if share is None or share.skip_share is None:
        return "", ""
    weights = share.gauge_fixed
    if not weights:
        return f"{share.skip_share:.3f}", ""
    mean = f"{sum(weights) / len(weights):+.3f}"
    spread = f" ({min(weights):+.3f} to {max(weights):+.3f})" if len(weights) > 1 else ""
    return f"{share.skip_share:.3f}", mean + spread

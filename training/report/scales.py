"""What a run's learned scales were from the first epoch to the last, and what they do on data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from training.data.augment import to_channels
from training.data.dataset import AnySplit
from training.networks.network import scale_values
from training.report.evaluation import read_pixels
from training.report.runs import OpenRun
from training.report.skip_share import BlockShare, measure_shares

_BATCH_SIZE = 100


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Spread(_Record):
    """One value, or the channels of a block's scale together."""

    mean: float
    low: float
    high: float


class ScaleCourse(_Record):
    """One scale of one block over a run.

    Attributes:
        block: The block's name.
        kind: Of its shortcut.
        term: What the scale multiplies.
        channels: Values that the scale has: 1, or one a channel.
        negative: How many of them are below zero at the end.
        epochs: Epochs after which it was recorded; 0 is before the first.
        course: Its values then.
        end: Its value in the checkpoint's network, which is what export and evaluation use.
    """

    block: str
    kind: Literal["identity", "projection"]
    term: Literal["shortcut", "branch"]
    channels: int
    negative: int
    epochs: list[int]
    course: list[Spread]
    end: Spread

    @property
    def start(self) -> Spread:
        """The first recorded value."""
        return self.course[0] if self.course else self.end


class RunScales(_Record):
    """Everything that ``adaresnet weights`` says of a run.

    Attributes:
        run: What the caller named it by.
        network: Its network's name.
        data: Name of the data that it was trained on.
        epochs: Epochs that it was trained for.
        scales: Every scale, from input to output.
        images: Held-out images that ``shares`` was measured on; 0 where it wasn't.
        shares: One entry a block; empty where no data could be read.
    """

    run: str
    network: str
    data: str
    epochs: int
    scales: list[ScaleCourse]
    images: int = 0
    shares: list[BlockShare] = []


def read_scales(run: OpenRun) -> RunScales:
    """Collect what a run recorded of its scales."""
    state = run.state
    recorded: list[tuple[int, dict[str, list[float]]]] = []
    if state.scales_at_start:
        recorded.append((0, state.scales_at_start))
    recorded += [(record.epoch, record.scales) for record in state.history]
    blocks = run.network.named_blocks()
    kinds = {name: block.shortcut_kind for name, block in blocks}
    courses = []
    for key, values in scale_values(blocks).items():
        name, _, term = key.rpartition(".")
        known = [(epoch, scales[key]) for epoch, scales in recorded if key in scales]
        courses.append(
            ScaleCourse(
                block=name,
                kind=kinds[name],
                term="shortcut" if term == "shortcut" else "branch",
                channels=len(values),
                negative=sum(value < 0 for value in values),
                epochs=[epoch for epoch, _ in known],
                course=[_spread(then) for _, then in known],
                end=_spread(values),
            )
        )
    return RunScales(
        run=str(run.path),
        network=state.config.network,
        data=state.data_name,
        epochs=state.epochs_done,
        scales=courses,
    )


def with_shares(found: RunScales, run: OpenRun, split: AnySplit, limit: int) -> RunScales:
    """Measure skip shares on images of a split.

    Args:
        found: What ``read_scales`` collected.
        run: The run.
        split: Held-out images of the run's data.
        limit: Most images to take. They are spread evenly: a folder's pictures lie by class.

    Raises:
        DataError: A picture can't be read any more.
    """
    count = min(limit, len(split))
    indices = torch.linspace(0, len(split) - 1, count).round().long()
    batches = (
        run.normalize(to_channels(pixels.to(run.device), grey=run.state.grey))
        for pixels in read_pixels(split, _BATCH_SIZE, indices)
    )
    shares = measure_shares(run.network, batches)
    return found.model_copy(update={"images": count, "shares": shares})


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=sum(values) / len(values), low=min(values), high=max(values))

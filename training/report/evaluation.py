"""Evaluate a model on a split, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from tqdm import tqdm

from service.engine.session import available_cpus
from training.data.batches import read_batches
from training.data.dataset import HELD_OUT_NAME, AnySplit, DataError, ImageData
from training.report.errors import ReportError
from training.report.metrics import Scores, score
from training.report.models import EvaluatedModel, Format, open_model, shorten
from training.report.runs import DeviceChoice, Say

_SHORTEST_S = 0.5  # to time; a few milliseconds say more of the machine's other work
_MEASURED = "from pixels in main memory to logits in main memory; reading and decoding not counted"


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate, on what.

    Attributes:
        model: Anything that ``find_model`` accepts.
        data: Where the data is; None: where a checkpoint's run had it.
        split: Which split of it.
        device: Where to run.
        batch_size: Images a step.
    """

    model: Path
    data: str | None = None
    split: Literal["test", "train"] = "test"
    device: DeviceChoice = "auto"
    batch_size: int = 128


class MissingDataError(ReportError):
    """An ONNX file can't say where its data is."""


class Throughput(BaseModel):
    """How fast the evaluation itself ran, after one batch that was not timed.

    Attributes:
        images_per_s: ``images / duration_s``.
        images: Images that were timed: all of them, and where that is done in no time, the first
            batch again and again.
        duration_s: Time in the network, seconds.
        batch_size: Images a step, never more than there are.
        device: ``cpu`` or ``cuda``.
        threads: Threads that the network might use on the CPU.
        measured: What the time spans.
    """

    model_config = ConfigDict(frozen=True)

    images_per_s: float
    images: int
    duration_s: float
    batch_size: int
    device: str
    threads: int
    measured: str = _MEASURED


class Evaluation(BaseModel):
    """What came out, as ``evaluation.json`` has it.

    Attributes:
        model: The file.
        format: What kind of file.
        data: Name of the data set.
        split: Name of the split, as the data has it.
        notes: What a reader of the numbers has to know.
        scores: The numbers.
        throughput: The speed.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    format: Format
    data: str
    split: str
    notes: list[str]
    scores: Scores
    throughput: Throughput


def evaluate_model(request: EvaluationRequest, say: Say) -> Evaluation:
    """Load a model and its data, and score it.

    Raises:
        MissingDataError: An ONNX file, and no data was named.
        ReportError: The model or device can't be used, or the classes of the data are others.
        CheckpointError: The checkpoint can't be read.
        TrainingError: The checkpoint's network can't be built any more.
        ServiceError: The ONNX file or the device can't be used.
        DataError: The data can't be read.
    """
    model = open_model(request.model, request.device, request.batch_size)
    data = _load(model, request.data, say)
    check_classes(model.class_names, data.class_names)
    split = data.test if request.split == "test" else data.train
    logits, throughput = run_split(model, split, request.batch_size)
    return Evaluation(
        model=str(model.path),
        format=model.format,
        data=data.name,
        split=data.test_name if request.split == "test" else "train",
        notes=_notes(model, data, request.split),
        scores=score(logits, split.labels.numpy(), model.class_names),
        throughput=throughput,
    )


def check_classes(model: tuple[str, ...], data: tuple[str, ...]) -> None:
    """Refuse data whose classes are not the model's, in the model's order.

    Raises:
        ReportError: They are not.
    """
    if model == data:
        return
    how = "in another order" if sorted(model) == sorted(data) else "others"
    first = next(
        (i for i, (a, b) in enumerate(zip(model, data, strict=False)) if a != b),
        min(len(model), len(data)),
    )
    raise ReportError(
        f"the data's {len(data)} classes are {how} than the model's {len(model)}, from number"
        f" {first + 1} on: {_from(first, data)}; the model has {_from(first, model)}"
    )


def _from(first: int, names: tuple[str, ...]) -> str:
    return shorten(names[first:]) if first < len(names) else "none there"


class _Clock:
    """Adds up images and the time that a model takes for them."""

    def __init__(self, model: EvaluatedModel) -> None:
        self._model = model
        self.images, self.duration_s = 0, 0.0

    def timed(self, pixels: Tensor) -> NDArray[np.float32]:
        started = time.perf_counter()
        logits = self._model.answer(pixels)
        self.duration_s += time.perf_counter() - started
        self.images += len(pixels)
        return logits


def run_split(
    model: EvaluatedModel, split: AnySplit, batch_size: int
) -> tuple[NDArray[np.float32], Throughput]:
    """Answer every image of a split, and time it.

    Returns:
        Logits, float32 [N, C], in the split's order, and the speed.

    Raises:
        DataError: The split is empty, or a picture can't be read any more.
    """
    if not len(split):
        raise DataError("the split has no images")
    parts: list[NDArray[np.float32]] = []
    clock = _Clock(model)
    steps = -(-len(split) // batch_size)
    for pixels in tqdm(read_pixels(split, batch_size), total=steps, leave=False, disable=None):
        if not parts:
            first = pixels
            model.answer(first)  # the first run of a shape allocates and tunes; it is not timed
        parts.append(clock.timed(pixels))
    while clock.duration_s < _SHORTEST_S:
        clock.timed(first)
    throughput = Throughput(
        images_per_s=clock.images / clock.duration_s,
        images=clock.images,
        duration_s=clock.duration_s,
        batch_size=min(batch_size, len(split)),
        device=model.device,
        threads=model.threads,
    )
    return np.concatenate(parts), throughput


def read_pixels(
    split: AnySplit, batch_size: int, indices: Tensor | None = None
) -> Iterator[Tensor]:
    """Read a split, or the images at ``indices``, in order: uint8 [B, H, W, 3] on the CPU."""
    wanted = torch.arange(len(split)) if indices is None else indices
    batches = torch.split(wanted, batch_size)
    for pixels, _ in read_batches(split, batches, torch.device("cpu"), available_cpus()):
        yield pixels


def _load(model: EvaluatedModel, source: str | None, say: Say) -> ImageData:
    source = source or model.trained_on.source
    if source is None:
        known = f"was trained on {model.trained_on.name!r}, but " if model.trained_on.name else ""
        raise MissingDataError(
            f"{model.path} {known}does not say where its data is now; give it with --data"
        )
    return model.read_data(source, say)


def _notes(model: EvaluatedModel, data: ImageData, split: str) -> list[str]:
    notes = []
    if data.skipped:
        notes.append(f"{data.skipped:,} pictures of the data were left out as bad")
    if split == "train" and data.digest == model.trained_on.digest:
        notes.append("the model was trained on these images: new ones are harder")
    # The held-out images are chosen by seed and number of pictures: one more, and they are others.
    if (
        split == "test"
        and data.test_name == HELD_OUT_NAME
        and data.digest != model.trained_on.digest
    ):
        notes.append(
            "the data has no test split, and is not exactly what the model was trained on: some of"
            " these images may have been trained on"
        )
    return notes

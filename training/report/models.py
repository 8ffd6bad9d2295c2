"""A checkpoint and an ONNX file behind one face: plain pixels in, logits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.session import Session, SessionOptions, available_cpus
from service.metadata import MODEL_FILE
from training.checkpoint import FILE_NAME
from training.data.dataset import ImageData, LoadOptions, load_data
from training.evaluate import predict_logits
from training.report.errors import ReportError
from training.report.runs import DeviceChoice, Say, open_run
from training.start import load_data_of

Format = Literal["checkpoint", "onnx"]
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class TrainedOn:
    """What a model says of the data that it was trained on.

    Attributes:
        name: Name of the data set.
        source: Where it was then; None where only the name is known.
        digest: Of its pixels and labels; None where unknown.
    """

    name: str | None
    source: str | None
    digest: str | None


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that is loaded and ready to answer.

    Attributes:
        path: The file.
        format: What kind of file.
        class_names: In the order of the logits.
        image_px: Height and width of its input.
        trained_on: What it was trained on.
        device: ``cpu`` or ``cuda``, where it really runs.
        threads: Threads of one run on the CPU.
        read_data: Reads the data at a place, at the model's size, as its training did. Raises
            ``DataError``.
        answer: uint8 [N, image_px, image_px, 3] on the CPU to logits, float32 [N, C].
    """

    path: Path
    format: Format
    class_names: tuple[str, ...]
    image_px: int
    trained_on: TrainedOn
    device: str
    threads: int
    read_data: Callable[[str, Say], ImageData]
    answer: Callable[[Tensor], NDArray[np.float32]]


def open_model(path: Path, device: DeviceChoice, batch_size: int) -> EvaluatedModel:
    """Load whatever ``find_model`` finds at a path.

    Raises:
        ReportError: Nothing usable is there, or the device can't be used.
        CheckpointError: The checkpoint can't be read.
        TrainingError: The checkpoint's network can't be built any more.
        ServiceError: The ONNX file or the device can't be used.
    """
    file, kind = find_model(path)
    if kind == "onnx":
        return _open_onnx(file, device)
    return _open_checkpoint(file, device, batch_size)


def find_model(path: Path) -> tuple[Path, Format]:
    """Find the file that a path means.

    Args:
        path: Checkpoint, run folder, ONNX file, version folder, or a model's folder in a
            repository, which means its highest version.

    Raises:
        ReportError: There is none, or more than one model.
    """
    if path.is_file():
        return path, "onnx" if path.suffix == ".onnx" else "checkpoint"
    if not path.is_dir():
        raise ReportError(f"{path} does not exist; give a run's folder or an ONNX file")
    for name, kind in ((FILE_NAME, "checkpoint"), (MODEL_FILE, "onnx")):
        if (path / name).is_file():
            return path / name, "onnx" if kind == "onnx" else "checkpoint"
    versions = {
        int(file.parent.name): file
        for file in path.glob(f"*/{MODEL_FILE}")
        if file.parent.name.isdecimal()
    }
    if versions:
        return versions[max(versions)], "onnx"
    models = sorted({file.parent.parent.name for file in path.glob(f"*/*/{MODEL_FILE}")})
    if models:
        raise ReportError(
            f"{path} is a repository of {shorten(models)}; give one model's folder in it"
        )
    raise ReportError(f"{path} holds neither {FILE_NAME} nor {MODEL_FILE}")


def shorten(names: list[str] | tuple[str, ...]) -> str:
    """The first names of a list and how many more there are."""
    more = len(names) - _SHOWN_NAMES
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"[{shown}, and {more} more]" if more > 0 else f"[{shown}]"


def _open_checkpoint(file: Path, device: DeviceChoice, batch_size: int) -> EvaluatedModel:
    run = open_run(file, device)
    state = run.state

    def answer(pixels: Tensor) -> NDArray[np.float32]:
        logits = predict_logits(
            run.network, run.normalize, pixels, grey=state.grey, batch_size=batch_size
        )
        return logits.numpy()

    return EvaluatedModel(
        path=file,
        format="checkpoint",
        class_names=state.class_names,
        image_px=state.image_px,
        trained_on=TrainedOn(state.data_name, state.config.data, state.data_digest),
        device=run.device.type,
        threads=torch.get_num_threads(),
        read_data=lambda source, say: load_data_of(state, source, say),
        answer=answer,
    )


def _open_onnx(file: Path, device: DeviceChoice) -> EvaluatedModel:
    options = SessionOptions(device=device, threads=available_cpus())
    session = Session(file, options)
    metadata = session.metadata
    size = metadata.input
    if size.height != size.width:
        raise ReportError(
            f"{file} takes images of {size.height} x {size.width} pixels; data is read as squares"
            " only"
        )
    training = metadata.training
    return EvaluatedModel(
        path=file,
        format="onnx",
        class_names=tuple(metadata.labels),
        image_px=size.height,
        trained_on=TrainedOn(
            name=training.data if training else None,
            source=None,
            digest=training.data_digest if training else None,
        ),
        device=session.device,
        threads=options.threads,
        # The seed chose the held-out images where the data has no test split; a file can't say
        # what its run did with bad pictures, and the report counts those left out.
        read_data=lambda source, say: load_data(
            source,
            size.height,
            size.resize,
            training.seed if training else 0,
            LoadOptions(bad_files="skip"),
            say,
        ),
        answer=lambda pixels: session.run(pixels.numpy()).logits,
    )

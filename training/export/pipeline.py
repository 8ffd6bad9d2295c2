"""From a checkpoint to a proved file in the model repository, top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from service.engine.digest import BLANK_DIGEST, seal
from service.engine.golden import replay_golden_images
from service.engine.publish import PublishError, check_name, publish, write_file
from service.engine.session import Session, SessionOptions, available_cpus
from service.metadata import Input, ModelMetadata, Precision
from training.checkpoint import RunState, load_checkpoint, restore_averaged
from training.data.augment import Normalize
from training.data.dataset import HELD_OUT_NAME, AnySplit, DataError, ImageData
from training.evaluate import split_logits
from training.export.arrays import FusedNetwork
from training.export.describe import (
    describe_accuracy,
    describe_run,
    describe_verification,
    draw_golden_set,
)
from training.export.fold import FLOAT16, fold_network
from training.export.fuse import fuse_network
from training.export.graph import build_graph, count_operators, with_metadata
from training.export.precision import MAX_ACCURACY_LOSS, enforce_bounds
from training.export.quantize import calibration_images, largest_activation, quantize
from training.export.rounding import check_headroom, with_rounding
from training.export.verify import check_operators, compare, traced_operators
from training.networks.registry import AdaptiveNetwork
from training.start import load_data_of, network_of


@dataclass(frozen=True)
class ExportRequest:
    """What to export and where to.

    Attributes:
        checkpoint: Run folder or checkpoint file.
        name: Name in the model repository; None writes ``out`` instead.
        repository: Folder of the model repository; None writes ``out`` instead.
        data: Where the run's data is now; None: where it was in training.
        description: One line for people.
        precision: Of weights and activations.
        max_accuracy_loss: Against PyTorch in float32, in [0, 1].
        force: Write a file that loses more, and say so in it.
        out: Write this file, and publish nothing.
    """

    checkpoint: Path
    name: str | None = None
    repository: Path | None = None
    data: str | None = None
    description: str = ""
    precision: Precision = "fp32"
    max_accuracy_loss: float = MAX_ACCURACY_LOSS
    force: bool = False
    out: Path | None = None


@dataclass(frozen=True)
class ExportResult:
    """A written file and what was proved of it."""

    path: Path
    metadata: ModelMetadata
    kept_muls: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    """A graph that has still to prove itself.

    Attributes:
        graph: In the wanted precision.
        plain: Operators of the plain twin.
        kept_muls: Names of joins in which a scale stays a Mul.
        calibrated_on: int8: number of images.
    """

    graph: onnx.ModelProto
    plain: dict[str, int]
    kept_muls: tuple[str, ...]
    calibrated_on: int | None = None


def export_checkpoint(request: ExportRequest, say: Callable[[str], None]) -> ExportResult:
    """Fold, write, prove and publish a trained network.

    Raises:
        CheckpointError: The checkpoint can't be read.
        DataError: The run's test data can't be read, or is not what the run was trained on.
        FoldError: The network holds a value that can't be folded, or not in this precision.
        GraphTooLargeError: The weights don't fit into one file.
        VerificationError: The graph's outputs differ from PyTorch's by more than the precision
            allows, or it has operators that the plain network has not; nothing was written.
        ModelLoadError: The finished file fails its own golden images; nothing was written.
        PublishError: The repository, or the file, can't be written.
    """
    _check_target(request)
    state, tensors = load_checkpoint(request.checkpoint)
    network = network_of(state)
    restore_averaged(network, tensors)
    network.eval()
    data = _test_data(state, request.data, say)
    fused = fuse_network(network, state.mean, state.std)
    described = describe_run(state, network, request.description, request.precision)
    candidate = _build(fused, described.input, request.precision, data.train)
    say(f"folded; comparing with PyTorch on {len(data.test)} images")
    metadata = _prove(request, candidate, state, network, data, described)
    model = seal(with_metadata(candidate.graph, metadata))
    # The very bytes that are published, as the service will try them before it calls them ready.
    session = _open(model)
    replay_golden_images(session)
    return ExportResult(_write(request, model), session.metadata, candidate.kept_muls)


def _check_target(request: ExportRequest) -> None:
    if request.name is not None and request.repository is not None and request.out is None:
        check_name(request.name)
    elif request.out is None:
        raise PublishError("neither a name in a repository nor a file to write is given")
    elif request.out.exists():
        raise PublishError(f"{request.out} exists; choose another name or remove it")


def _write(request: ExportRequest, model: bytes) -> Path:
    if request.out is not None:
        return write_file(model, request.out)
    assert request.name is not None
    assert request.repository is not None
    return publish(model, request.repository, request.name)


def _open(model: bytes) -> Session:
    return Session(model, SessionOptions(device="cpu", threads=available_cpus()))


def _build(fused: FusedNetwork, size: Input, precision: Precision, train: AnySplit) -> _Candidate:
    half = precision == "fp16"
    fold = partial(fold_network, arithmetic=FLOAT16) if half else fold_network
    folded = fold(fused)
    graph = build_graph(folded, size, half=half)
    plain = count_operators(build_graph(fold(fused.plain_twin()), size, half=half))
    check_operators(folded, count_operators(graph), plain)
    if precision == "fp32":
        return _Candidate(graph, plain, folded.kept_muls)
    images = calibration_images(train)
    if half:
        check_headroom(largest_activation(build_graph(folded, size), images))
        return _Candidate(graph, plain, folded.kept_muls)
    return _Candidate(quantize(graph, images), plain, folded.kept_muls, len(images))


def _prove(
    request: ExportRequest,
    candidate: _Candidate,
    state: RunState,
    network: AdaptiveNetwork,
    data: ImageData,
    described: ModelMetadata,
) -> ModelMetadata:
    """Compare with PyTorch on the test split, and draw the golden images."""
    normalize = Normalize(state.mean, state.std)
    expected = split_logits(network, normalize, data.test, grey=state.grey)
    graphs = [candidate.graph]
    if request.precision == "fp16":
        graphs.append(with_rounding(candidate.graph))
    sessions = [_open(with_metadata(graph, described)) for graph in graphs]
    comparisons = [compare(session, expected, data.test) for session in sessions]
    broken = [
        enforce_bounds(each, request.precision, request.max_accuracy_loss, force=request.force)
        for each in comparisons
    ]
    operators = (traced_operators(network), count_operators(candidate.graph), candidate.plain)
    rounded = comparisons[1] if len(comparisons) > 1 else None
    verification = describe_verification(comparisons[0], rounded, request.precision, operators)
    found = {
        "calibration_images": candidate.calibrated_on,
        "forced": next(filter(None, broken), None),
    }
    return described.model_copy(
        update={
            "golden": draw_golden_set(state, network, sessions, comparisons),
            "verification": verification.model_copy(update=found),
            "accuracy": describe_accuracy(comparisons[0], data),
            "file_digest": BLANK_DIGEST,
        }
    )


def _test_data(state: RunState, source: str | None, say: Callable[[str], None]) -> ImageData:
    data = load_data_of(state, source, say)
    if data.class_names != state.class_names:
        raise DataError(
            f"the data's classes are {list(data.class_names)}; the run was trained on"
            f" {list(state.class_names)}"
        )
    held_out = HELD_OUT_NAME in (state.test_name, data.test_name)
    if held_out and data.digest != state.data_digest:
        raise DataError(
            "this is not the data that the run was trained on, and without a test split of its own"
            " some of its images may have been trained on; give the run's data with --data"
        )
    return data

"""From a checkpoint to a proved file in the model repository, top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch

from service.engine.decode import decode_image
from service.engine.golden import replay_golden_images
from service.engine.session import Session, SessionOptions, available_cpus
from service.metadata import (
    Accuracy,
    Architecture,
    GoldenSet,
    Input,
    ModelMetadata,
    Normalization,
    ShortcutScale,
    TrainingRun,
    Verification,
)
from training.checkpoint import RunState, load_checkpoint, restore_averaged
from training.data.augment import Normalize
from training.data.dataset import HELD_OUT_NAME, DataError, ImageData
from training.evaluate import predict_logits, split_logits
from training.export.fold import fold_network
from training.export.fuse import fuse_network
from training.export.golden import draw_golden_images, golden_image
from training.export.graph import OPSET, build_graph, count_operators, with_metadata
from training.export.publish import check_name, publish
from training.export.verify import (
    TOLERANCE,
    Comparison,
    check_operators,
    compare,
    traced_operators,
)
from training.networks.network import scale_values
from training.networks.registry import AdaptiveNetwork
from training.start import load_run_data, network_of

GOLDEN_TOLERANCE = 1e-3  # of the logit range: room for another device's float32 arithmetic


@dataclass(frozen=True)
class ExportRequest:
    """What to export and where to.

    Attributes:
        checkpoint: Run folder or checkpoint file.
        name: Name in the model repository.
        repository: Folder of the model repository.
        data: Where the run's data is now; None: where it was in training.
        description: One line for people.
    """

    checkpoint: Path
    name: str
    repository: Path
    data: str | None = None
    description: str = ""


@dataclass(frozen=True)
class ExportResult:
    """A published file and what was proved of it."""

    path: Path
    metadata: ModelMetadata
    kept_muls: tuple[str, ...]


def export_checkpoint(request: ExportRequest, say: Callable[[str], None]) -> ExportResult:
    """Fold, write, prove and publish a trained network.

    Raises:
        CheckpointError: The checkpoint can't be read.
        DataError: The run's test data can't be read, or is not what the run was trained on.
        FoldError: The network holds a value that can't be folded.
        VerificationError: The graph's outputs differ from PyTorch's, or it has operators that
            the plain network has not; nothing was written.
        ModelLoadError: The finished file fails its own golden images; nothing was written.
        PublishError: The repository can't be written.
    """
    check_name(request.name)
    state, tensors = load_checkpoint(request.checkpoint)
    network = network_of(state)
    restore_averaged(network, tensors)
    network.eval()
    fused = fuse_network(network, state.mean, state.std)
    folded = fold_network(fused)
    size = Input(height=state.image_px, width=state.image_px, resize=state.config.resize)
    graph = build_graph(folded, size)
    plain = build_graph(fold_network(fused.plain_twin()), size)
    check_operators(folded, count_operators(graph), count_operators(plain))
    data = _test_data(state, request.data, say)
    say(f"folded; comparing with PyTorch on {len(data.test)} images")
    described = _describe(request, state, network, size)
    normalize = Normalize(state.mean, state.std)
    expected = split_logits(network, normalize, data.test, grey=state.grey)
    comparison = compare(_open(with_metadata(graph, described)), expected, data.test)
    metadata = described.model_copy(
        update={
            "golden": _golden(state, network, size, comparison.logit_range),
            "verification": _verification(comparison, network, graph, plain),
            "accuracy": Accuracy(
                data=data.name,
                split=data.test_name,
                images=comparison.images,
                top1=comparison.accuracy,
            ),
        }
    )
    model = with_metadata(graph, metadata)
    # The very bytes that are published, as the service will try them before it calls them ready.
    replay_golden_images(_open(model))
    path = publish(model, request.repository, request.name)
    return ExportResult(path, metadata, folded.kept_muls)


def _open(model: bytes) -> Session:
    return Session(model, SessionOptions(device="cpu", threads=available_cpus()))


def _test_data(state: RunState, source: str | None, say: Callable[[str], None]) -> ImageData:
    where = {"image_px": state.image_px, "data": source or state.config.data}
    try:
        data = load_run_data(state.config.model_copy(update=where), say)
    except DataError as error:
        raise DataError(f"{error}; --data says where the run's data is now") from error
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


def _golden(
    state: RunState, network: AdaptiveNetwork, size: Input, logit_range: float
) -> GoldenSet:
    drawn = draw_golden_images(size.height, size.width)
    pixels = np.stack([decode_image(d, size.height, size.width, size.resize) for _, d in drawn])
    logits = predict_logits(
        network, Normalize(state.mean, state.std), torch.from_numpy(pixels), grey=state.grey
    )
    images = [
        golden_image(media_type, data, row)
        for (media_type, data), row in zip(drawn, logits.tolist(), strict=True)
    ]
    return GoldenSet(tolerance=GOLDEN_TOLERANCE * logit_range, images=images)


def _verification(
    comparison: Comparison,
    network: AdaptiveNetwork,
    graph: onnx.ModelProto,
    plain: onnx.ModelProto,
) -> Verification:
    return Verification(
        images=comparison.images,
        max_abs_difference=comparison.max_abs_difference,
        logit_range=comparison.logit_range,
        tolerance=TOLERANCE,
        top1_agreement=comparison.top1_agreement,
        operators_before=traced_operators(network),
        operators_after=count_operators(graph),
        operators_plain_twin=count_operators(plain),
        versions={name: version(name) for name in ("onnx", "onnxruntime")} | {"opset": str(OPSET)},
    )


def _describe(
    request: ExportRequest, state: RunState, network: AdaptiveNetwork, size: Input
) -> ModelMetadata:
    config = state.config
    kinds = {name: block.shortcut_kind for name, block in network.named_blocks()}
    scales = [
        ShortcutScale(
            block=name.rpartition(".")[0],
            shortcut=kinds[name.rpartition(".")[0]],
            placement="branch" if name.endswith(".branch") else "shortcut",
            value=values[0] if len(values) == 1 else values,
        )
        for name, values in scale_values(network.named_blocks()).items()
    ]
    return ModelMetadata(
        description=request.description,
        labels=list(state.class_names),
        input=size,
        normalization=Normalization(
            color="grey" if state.grey else "rgb", mean=state.mean, std=state.std
        ),
        architecture=Architecture(
            network=config.network,
            width=config.width,
            parameters=sum(p.numel() for p in network.parameters()),
            shortcut_scales=scales,
        ),
        training=TrainingRun(
            data=state.data_name,
            data_digest=state.data_digest,
            train_images=state.train_images,
            config=config.portable(),
            config_hash=config.stable_hash(),
            seed=config.seed,
            epochs=state.epochs_done,
            started_from=state.started_from,
            device=state.device,
            duration_s=round(sum(record.duration_s for record in state.history), 1),
            versions=state.versions,
        ),
    )

"""What the metadata says of a run, of the pictures drawn for it, and of how it was proved."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch

from service.engine.decode import decode_image
from service.engine.session import Session
from service.metadata import (
    Accuracy,
    Architecture,
    GoldenSet,
    Input,
    ModelMetadata,
    Normalization,
    Precision,
    ShortcutScale,
    TrainingRun,
    Verification,
)
from training.checkpoint import RunState
from training.data.augment import Normalize
from training.data.dataset import ImageData
from training.evaluate import predict_logits
from training.export.golden import draw_golden_images, golden_image
from training.export.graph import OPSET
from training.export.precision import BOUNDS, golden_tolerance
from training.export.verify import Comparison
from training.networks.network import scale_values
from training.networks.registry import AdaptiveNetwork


def describe_run(
    state: RunState, network: AdaptiveNetwork, description: str, precision: Precision
) -> ModelMetadata:
    """What is known before anything is measured."""
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
        description=description,
        labels=list(state.class_names),
        input=Input(height=state.image_px, width=state.image_px, resize=config.resize),
        precision=precision,
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


def describe_accuracy(comparison: Comparison, data: ImageData) -> Accuracy:
    """Accuracy of the exported file on the run's test split."""
    return Accuracy(
        data=data.name,
        split=data.test_name,
        images=comparison.images,
        top1=comparison.accuracy,
    )


def describe_verification(
    comparison: Comparison,
    rounded: Comparison | None,
    precision: Precision,
    operators: tuple[dict[str, int], dict[str, int], dict[str, int]],
) -> Verification:
    """What was compared.

    Args:
        comparison: The file itself, on this machine.
        rounded: fp16: the same with every activation rounded.
        precision: Of the file.
        operators: Of the PyTorch network, of the file, and of the plain twin.
    """
    before, after, plain = operators
    return Verification(
        images=comparison.images,
        max_abs_difference=comparison.max_abs_difference,
        logit_range=comparison.logit_range,
        tolerance=BOUNDS[precision].tolerance,
        top1_agreement=comparison.top1_agreement,
        reference_accuracy=comparison.reference_accuracy,
        batch_difference=comparison.batch_difference,
        rounded_difference=rounded.max_abs_difference if rounded else None,
        rounded_agreement=rounded.top1_agreement if rounded else None,
        operators_before=before,
        operators_after=after,
        operators_plain_twin=plain,
        versions={name: version(name) for name in ("onnx", "onnxruntime")} | {"opset": str(OPSET)},
    )


def draw_golden_set(
    state: RunState,
    network: AdaptiveNetwork,
    sessions: list[Session],
    comparisons: list[Comparison],
) -> GoldenSet:
    """Draw the pictures, ask PyTorch, and allow what the sessions differ by.

    Args:
        state: Of the run.
        network: Trained.
        sessions: The exported file, and whatever else shows how devices will compute it.
        comparisons: What each of them did on real images.
    """
    px, resize = state.image_px, state.config.resize
    drawn = draw_golden_images(px, px)
    pixels = np.stack([decode_image(data, px, px, resize) for _, data in drawn])
    logits = predict_logits(
        network, Normalize(state.mean, state.std), torch.from_numpy(pixels), grey=state.grey
    ).numpy()
    measured = max(float(np.abs(s.run(pixels).logits - logits).max()) for s in sessions)
    typical = max(comparison.typical_difference for comparison in comparisons)
    images = [
        golden_image(media_type, data, row, state.class_names)
        for (media_type, data), row in zip(drawn, logits.tolist(), strict=True)
    ]
    allowed = golden_tolerance(measured, typical, comparisons[0].logit_range)
    return GoldenSet(tolerance=allowed, images=images)

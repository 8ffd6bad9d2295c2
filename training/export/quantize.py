"""int8: weights and activations in 8 bits, by ONNX Runtime's own quantizer.

Weights are symmetric with one scale a channel, activations asymmetric in uint8, which is what
x86 kernels take; ranges are the smallest and largest values that training images give. The
normalisation's 1 x 1 convolution is quantized with the rest; the classifier, which costs nothing,
stays in float32, and so do operators without a kernel in 8 bits (batch norm of pre-activation
blocks, a kept Mul).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quantize_static,
)
from torch import Tensor

from service.metadata import INPUT_NAME
from training.data.dataset import AnySplit, Split
from training.export.graph import GRAPH_NAME, checked

CALIBRATION_IMAGES = 512
_BATCH = 64
# A Relu is quantized with the convolution or join before it, which then only covers what it leaves.
_QUANTIZED = ("Conv", "Add", "Sub", "Relu", "MaxPool", "Pad")
# The quantizer would else recommend its preprocessing, which is for graphs of other exporters.
_PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}


def calibration_images(split: AnySplit) -> Tensor:
    """Training images evenly spaced over the split: uint8 [N, H, W, 3], N at most 512."""
    count = min(CALIBRATION_IMAGES, len(split))
    indices = np.linspace(0, len(split) - 1, count).round().astype(int).tolist()
    return split.pixels[indices].cpu() if isinstance(split, Split) else split.decode(indices)


def quantize(model: onnx.ModelProto, images: Tensor) -> onnx.ModelProto:
    """Quantize a float32 graph.

    Args:
        model: From ``build_graph``.
        images: For calibration, uint8 [N, height, width, 3].
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(_prepared(model))
        quantize_static(
            source,
            target,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            # Weights in 7 bits: with 8, sums overflow on x86 CPUs without VNNI, and the same file
            # would answer differently there.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantized = onnx.load(target)
    del quantized.metadata_props[:]
    quantized.graph.name, quantized.producer_name = GRAPH_NAME, model.producer_name
    quantized.ClearField("producer_version")
    return checked(quantized)


def largest_activation(model: onnx.ModelProto, images: Tensor) -> float:
    """Largest magnitude that any convolution, join or batch norm of a float32 graph gives."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float32.onnx"
        source.write_bytes(_prepared(model))
        calibrator = create_calibrator(
            source,
            ["Conv", "Add", "Sub", "Mul", "Gemm", "BatchNormalization"],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(_Reader(images))
        ranges = calibrator.compute_data()
        return max(float(np.abs(ranges[name].range_value).max()) for name in ranges)


def _prepared(model: onnx.ModelProto) -> bytes:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    helper.set_model_props(copied, _PREPROCESSED)
    return bytes(copied.SerializeToString())


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands images to the calibrator, some at a time."""

    def __init__(self, images: Tensor) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = (
            images[start : start + _BATCH].numpy() for start in range(0, len(images), _BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}

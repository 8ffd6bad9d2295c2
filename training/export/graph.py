"""Write a folded network as ONNX: plain pixels in, logits and probabilities out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.metadata import (
    INPUT_NAME,
    LOGITS_NAME,
    METADATA_KEY,
    PROBABILITIES_NAME,
    Input,
    ModelMetadata,
)
from training.export.arrays import (
    Affine,
    Array,
    Conv,
    ConvStep,
    FoldedBlock,
    FoldedNetwork,
    FoldedPixelSkip,
    FoldedStep,
    Join,
    Linear,
    NormStep,
    Padding,
    Pool,
    PoolStep,
)

OPSET = 17
IR_VERSION = 8  # what belongs to opset 17, so that older runtimes read the file
GRAPH_NAME = "adaresnet"
MAX_WEIGHTS_BYTES = 2**31 - 2**26  # protobuf's limit, less room for nodes and metadata


class GraphTooLargeError(Exception):
    """The weights don't fit into one ONNX file."""


class _Writer:
    """Collects nodes and weights in the order in which they run."""

    def __init__(self, numbers: type[np.float16 | np.float32]) -> None:
        self.numbers = numbers
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(
        self, kind: str, inputs: Sequence[str], output: str, **attributes: float | Sequence[int]
    ) -> str:
        node = helper.make_node(kind, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return output

    def constant(self, name: str, values: Array) -> str:
        array = np.ascontiguousarray(values, dtype=self.numbers)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def indices(self, name: str, values: Sequence[int]) -> str:
        self.weights.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def conv(self, conv: Conv, x: str, name: str) -> str:
        size = conv.weight.shape[2]
        weight = self.constant(f"{name}.weight", conv.weight)
        bias = self.constant(f"{name}.bias", conv.bias)
        before, after = conv.pads
        return self.node(
            "Conv",
            [x, weight, bias],
            name,
            kernel_shape=[size, size],
            strides=[conv.stride] * 2,
            pads=[before, before, after, after],
            group=conv.groups,
        )

    def linear(self, layer: Linear, x: str, name: str, output: str) -> str:
        weight = self.constant(f"{name}.weight", layer.weight)
        bias = self.constant(f"{name}.bias", layer.bias)
        return self.node("Gemm", [x, weight, bias], output, transB=1)

    def max_pool(self, pool: Pool, x: str, name: str) -> str:
        before, after = pool.pads
        return self.node(
            "MaxPool",
            [x],
            name,
            kernel_shape=[pool.kernel_px] * 2,
            strides=[pool.stride] * 2,
            pads=[before, before, after, after],
        )

    def norm_relu(self, norm: Affine, x: str, name: str) -> str:
        """Batch norm by itself: its mean and variance are in factor and shift already."""
        factor = self.constant(f"{name}.factor", norm.factor)
        shift = self.constant(f"{name}.shift", norm.shift)
        zero = self.constant(f"{name}.mean", np.zeros_like(norm.factor))
        one = self.constant(f"{name}.variance", np.ones_like(norm.factor))
        inputs = [x, factor, shift, zero, one]
        normed = self.node("BatchNormalization", inputs, f"{name}.normed", epsilon=0.0)
        return self.node("Relu", [normed], f"{name}.output")

    def padded(self, padding: Padding, x: str, name: str) -> str:
        """Every n-th pixel, zero channels around."""
        if padding.stride > 1:
            x = self.max_pool(Pool(1, padding.stride, (0, 0)), x, f"{name}.taken")
        if padding.before or padding.behind:
            pads = [0, padding.before, 0, 0, 0, padding.behind, 0, 0]
            x = self.node("Pad", [x, self.indices(f"{name}.pads", pads)], f"{name}.padded")
        return x

    def scaled(self, factors: Array | None, x: str, name: str) -> str:
        """The factors that did not fold."""
        if factors is None:
            return x
        factor = self.constant(f"{name}.factor", factors[:, None, None])
        return self.node("Mul", [x, factor], f"{name}.scaled")

    def step(self, step: FoldedStep, x: str) -> str:
        if isinstance(step, ConvStep):
            x = self.conv(step.conv, x, step.name)
            if step.pool is not None:
                x = self.max_pool(step.pool, x, f"{step.name}.pooled")
            return self.node("Relu", [x], f"{step.name}.output") if step.relu else x
        if isinstance(step, PoolStep):
            return self.max_pool(step.pool, x, step.name)
        if isinstance(step, NormStep):
            return self.norm_relu(step.norm, x, step.name)
        return self.block(step, x)

    def block(self, block: FoldedBlock, x: str) -> str:
        name = block.name
        h = x if block.pre is None else self.norm_relu(block.pre, x, f"{name}.pre")
        joined = h
        for index, conv in enumerate(block.branch):
            if index:
                joined = self.node("Relu", [joined], f"{name}.hidden{index}")
            joined = self.conv(conv, joined, f"{name}.branch{index}")
        if block.join is not Join.NONE:
            if isinstance(block.shortcut, Conv):
                shortcut = self.conv(block.shortcut, h, f"{name}.projection")
            elif block.shortcut is not None:
                shortcut = self.padded(block.shortcut, x, f"{name}.shortcut")
            else:
                shortcut = x
            shortcut = self.scaled(block.kept_mul, shortcut, f"{name}.shortcut")
            joined = self.node(block.join.value, [joined, shortcut], f"{name}.joined")
        return joined if block.pre is not None else self.node("Relu", [joined], f"{name}.output")

    def pixel_skip(self, skip: FoldedPixelSkip, image: str, features: str) -> str:
        drawn = self.linear(skip.dense, features, "pixel_skip.dense", "pixel_skip.drawn")
        drawn = self.node("Relu", [drawn], "pixel_skip.relu")
        shape = self.indices("pixel_skip.shape", [-1, *skip.shape])
        drawn = self.node("Reshape", [drawn, shape], "pixel_skip.picture")
        drawn = self.scaled(skip.drawn_mul, drawn, "pixel_skip.drawn")
        if skip.join is Join.NONE:
            return drawn
        image = self.scaled(skip.image_mul, image, "pixel_skip.image")
        return self.node(skip.join.value, [image, drawn], "pixel_skip.joined")


def build_graph(network: FoldedNetwork, size: Input, *, half: bool = False) -> onnx.ModelProto:
    """Build the serving graph.

    Args:
        network: The folded network.
        size: Height and width of the input.
        half: Weights and activations are float16, from the pixels to the last layer.

    Returns:
        A checked model: ``images`` uint8 [N, height, width, 3] to ``logits`` and
        ``probabilities`` float32 [N, C].

    Raises:
        GraphTooLargeError: The weights don't fit into one file.
    """
    writer = _Writer(np.float16 if half else np.float32)
    # Every value of a pixel, 0 to 255, is a number in float16 as well.
    pixels_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    x = writer.node("Cast", [INPUT_NAME], "pixels", to=pixels_type)
    x = writer.node("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    image = x = writer.conv(network.normalization, x, "normalization")
    for step in network.steps:
        x = writer.step(step, x)
    x = writer.node("GlobalAveragePool", [x], "pooled")
    x = writer.node("Flatten", [x], "features", axis=1)
    if network.pixel_skip is not None:
        joined = writer.pixel_skip(network.pixel_skip, image, x)
        x = writer.node("Flatten", [joined], "pixels_flat", axis=1)
    answer = "logits_float16" if half else LOGITS_NAME
    logits = writer.linear(network.classifier, x, "classifier", answer)
    if half:
        logits = writer.node("Cast", [logits], LOGITS_NAME, to=TensorProto.FLOAT)
    writer.node("Softmax", [logits], PROBABILITIES_NAME, axis=1)
    check_size(sum(len(weight.raw_data) for weight in writer.weights))
    return checked(_model(writer, size, len(network.classifier.bias)))


def _model(writer: _Writer, size: Input, classes: int) -> onnx.ModelProto:
    pixels: list[str | int | None] = ["N", size.height, size.width, 3]
    graph = helper.make_graph(
        writer.nodes,
        GRAPH_NAME,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, pixels)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes])
            for name in (LOGITS_NAME, PROBABILITIES_NAME)
        ],
        writer.weights,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="adaresnet",
    )


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the shape of every activation inside, for viewers, and checked in full.

    Raises:
        onnx.checker.ValidationError: It is not a valid model.
        onnx.shape_inference.InferenceError: Its shapes contradict each other.
    """
    del model.graph.value_info[:]
    shaped = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(shaped, full_check=True)
    return shaped


def check_size(weights_bytes: int) -> None:
    """Refuse what does not fit into one file: nothing here keeps weights beside it.

    Raises:
        GraphTooLargeError: More than protobuf can hold, with room for the rest.
    """
    if weights_bytes > MAX_WEIGHTS_BYTES:
        raise GraphTooLargeError(
            f"the weights take {weights_bytes / 1e9:.2f} GB; an ONNX file holds"
            f" {MAX_WEIGHTS_BYTES / 1e9:.2f} GB. Export fp16, or train a narrower network"
        )


def with_metadata(model: onnx.ModelProto, metadata: ModelMetadata) -> bytes:
    """Serialise a model with its metadata inside; the same input gives the same bytes."""
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    helper.set_model_props(complete, {METADATA_KEY: metadata.model_dump_json()})
    return bytes(complete.SerializeToString(deterministic=True))


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator the graph has, sorted by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))

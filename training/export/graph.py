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
from training.export.fold import Array, Conv, FoldedBlock, FoldedNetwork, Join

OPSET = 17
IR_VERSION = 8  # what belongs to opset 17, so that older runtimes read the file
GRAPH_NAME = "adaresnet"


class _Writer:
    """Collects nodes and weights in the order in which they run."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(
        self, kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]
    ) -> str:
        node = helper.make_node(kind, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return output

    def constant(self, name: str, values: Array) -> str:
        array = np.ascontiguousarray(values, dtype=np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, conv: Conv, x: str, name: str) -> str:
        size = conv.weight.shape[2]
        weight = self.constant(f"{name}.weight", conv.weight)
        bias = self.constant(f"{name}.bias", conv.bias)
        return self.node(
            "Conv",
            [x, weight, bias],
            name,
            kernel_shape=[size, size],
            strides=[conv.stride] * 2,
            pads=[conv.padding] * 4,
        )

    def block(self, block: FoldedBlock, x: str) -> str:
        first = self.conv(block.first, x, f"{block.name}.first")
        hidden = self.node("Relu", [first], f"{block.name}.hidden")
        joined = self.conv(block.last, hidden, f"{block.name}.last")
        if block.join is not Join.NONE:
            shortcut = x
            if block.projection is not None:
                shortcut = self.conv(block.projection, x, f"{block.name}.projection")
            if block.kept_mul != 1.0:
                factor = self.constant(f"{block.name}.scale", np.array(block.kept_mul))
                shortcut = self.node("Mul", [shortcut, factor], f"{block.name}.shortcut")
            joined = self.node(block.join.value, [joined, shortcut], f"{block.name}.joined")
        return self.node("Relu", [joined], f"{block.name}.output")


def build_graph(network: FoldedNetwork, size: Input) -> onnx.ModelProto:
    """Build the serving graph.

    Args:
        network: The folded network.
        size: Height and width of the input.

    Returns:
        A checked model: ``images`` uint8 [N, height, width, 3] to ``logits`` and
        ``probabilities`` float32 [N, C].
    """
    writer = _Writer()
    x = writer.node("Cast", [INPUT_NAME], "pixels", to=TensorProto.FLOAT)
    x = writer.node("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    x = writer.conv(network.normalization, x, "normalization")
    x = writer.node("Relu", [writer.conv(network.stem, x, "stem")], "stem.output")
    for block in network.blocks:
        x = writer.block(block, x)
    x = writer.node("GlobalAveragePool", [x], "pooled")
    x = writer.node("Flatten", [x], "features", axis=1)
    weight = writer.constant("classifier.weight", network.classifier.weight)
    bias = writer.constant("classifier.bias", network.classifier.bias)
    logits = writer.node("Gemm", [x, weight, bias], LOGITS_NAME, transB=1)
    writer.node("Softmax", [logits], PROBABILITIES_NAME, axis=1)
    classes = len(network.classifier.bias)
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            GRAPH_NAME,
            [
                helper.make_tensor_value_info(
                    INPUT_NAME, TensorProto.UINT8, ["N", size.height, size.width, 3]
                )
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes])
                for name in (LOGITS_NAME, PROBABILITIES_NAME)
            ],
            writer.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="adaresnet",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def with_metadata(model: onnx.ModelProto, metadata: ModelMetadata) -> bytes:
    """Serialise a model with its metadata inside; the same input gives the same bytes."""
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    helper.set_model_props(complete, {METADATA_KEY: metadata.model_dump_json()})
    return bytes(complete.SerializeToString(deterministic=True))


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator the graph has, sorted by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))

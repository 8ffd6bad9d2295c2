"""A float16 graph as a GPU computes it, on a machine whose CPU does not.

ONNX Runtime's CPU provider casts a float16 graph's activations to float32 once and computes in
float32 from there on, so running the file here would hide what float16 does to them: rounding, and
overflow above 65504. This writes both into a float32 graph, as a pair of casts behind every
operator that computes; sums are float32, as in a GPU's matrix units.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.export.fold import FoldError

# What training images reach at most; others may reach further.
_LARGEST = float(np.finfo(np.float16).max) / 4
# The others pass numbers on as they are, or set them to zero.
_COMPUTING = {"Conv", "Gemm", "Add", "Sub", "Mul", "BatchNormalization", "GlobalAveragePool"}


def check_headroom(largest: float) -> None:
    """Refuse a network whose activations come near the end of float16.

    Args:
        largest: Largest magnitude of an activation on training images, as it will be stored.

    Raises:
        FoldError: It is more than a quarter of float16's largest number.
    """
    if not largest <= _LARGEST:
        raise FoldError(
            f"an activation reaches {largest:.4g} on training images; float16 ends at 65504, and"
            f" the export wants to see no more than {_LARGEST:.0f}. Export fp32"
        )


def with_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a float16 graph to compute in float32 and to round every result to float16.

    Args:
        model: From ``build_graph(half=True)``.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    del graph.value_info[:]
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT
        elif node.op_type in _COMPUTING:
            (name,) = node.output
            node.output[0] = f"{name}.exact"
            half, single = TensorProto.FLOAT16, TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=half))
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=single))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    onnx.checker.check_model(rounded, full_check=True)
    return rounded

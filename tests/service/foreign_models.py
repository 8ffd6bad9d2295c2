"""Foreign classifiers, made with three exporters; small, but with the shapes that people serve."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

OPSET = 17


class Net(nn.Module):
    """A small convolutional classifier that takes any size."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 7, stride=4, padding=3), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.classifier = nn.Linear(8, classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(pictures).mean((2, 3)))
        return logits


def torch_legacy(path: Path, *, channels: int = 3, size: int = 224, batch: bool = True) -> Net:
    """PyTorch's tracing exporter: NCHW float32, logits."""
    net = Net(channels).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, channels, size, size),),
            path,
            dynamo=False,
            input_names=["pictures"],
            output_names=["scores"],
            dynamic_axes={"pictures": {0: "n"}, "scores": {0: "n"}} if batch else None,
            opset_version=OPSET,
        )
    return net


def torch_dynamo(path: Path, *, size: int = 224) -> Net:
    """PyTorch's newer exporter, with its default: weights in a file beside the model."""
    net = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(2, 3, size, size),),
            path,
            dynamo=True,
            verbose=False,
            dynamic_shapes={"pictures": {0: torch.export.Dim("n", min=1)}},
        )
    return net


def keras_like(
    path: Path,
    *,
    shape: tuple[int | str, ...] = ("n", 28, 28, 1),
    datatype: int = TensorProto.UINT8,
    classes: int = 4,
    metadata: dict[str, str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As tf2onnx writes a Keras network: NHWC pixels, scaled and softmaxed in the graph.

    Returns:
        Weight [C, classes] and bias [classes] of what it computes from the mean pixel over 255.
    """
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(int(shape[3]), classes)).astype(np.float32) * 3
    bias = rng.normal(size=classes).astype(np.float32)
    gemm = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "full"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["means", "weight", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["classes"], axis=-1),
    ]
    weights = [
        numpy_helper.from_array(np.array(255, np.float32), "full"),
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(bias, "bias"),
    ]
    save(path, gemm, weights, ("pixels", datatype, shape), ("classes", [shape[0], classes]))
    if metadata:
        model = onnx.load(path)
        helper.set_model_props(model, metadata)
        onnx.save(model, path)
    return weight, bias


def logarithm(path: Path) -> None:
    """A network whose scores for black pictures of 8 x 8 are no numbers, with its config.toml.

    It takes the logarithm of less than nothing.
    """
    save(
        path,
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
            helper.make_node("Sub", ["means", "one"], ["less"]),
            helper.make_node("Log", ["less"], ["scores"]),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
        ("pixels", TensorProto.UINT8, ("n", 8, 8, 3)),
        ("scores", ["n", 3]),
    )
    path.with_name("config.toml").write_text("[output]\nkind = 'logits'\n")


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    pictures: tuple[str, int, tuple[int | str, ...]],
    *outputs: tuple[str, list[int | str]],
) -> None:
    """Write a graph with one input and float outputs."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*pictures)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save(model, path)

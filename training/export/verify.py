"""Prove an exported graph against PyTorch, through the session that will serve it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from service.engine.session import Prediction, Session
from training.data.dataset import AnySplit
from training.export.arrays import Conv, FoldedNetwork, Join, Padding
from training.networks.registry import AdaptiveNetwork

# Of the range of the logits. Folding is exact; what is left is float32 rounding, near 1e-6.
TOLERANCE = 1e-4
_BATCH = 250
_TOGETHER = 64  # images whose answers are compared with those of runs of one image
_TYPICAL = 99  # percentile of images
_OPERATOR_OF = {
    "Conv2d": "Conv",
    "BatchNorm2d": "BatchNormalization",
    "BiasedBatchNorm": "BatchNormalization",
    "ReLU": "Relu",
    "relu": "Relu",
    "MaxPool2d": "MaxPool",
    "ZeroPad2d": "Pad",
    "ConstantPad2d": "Pad",
    "pad": "Pad",
    "getitem": "Slice",
    "view": "Reshape",
    "softplus": "Softplus",
    "tanh": "Tanh",
    "AdaptiveAvgPool2d": "GlobalAveragePool",
    "Flatten": "Flatten",
    "Linear": "Gemm",
    "add": "Add",
    "mul": "Mul",
}
_NOT_COMPUTED = {"Identity", "getattr", "to"}


class VerificationError(Exception):
    """The exported graph does not do what the PyTorch network does."""


@dataclass(frozen=True)
class Comparison:
    """How far the two sides are apart on real images.

    Attributes:
        images: Number of images compared.
        max_abs_difference: Largest logit difference.
        typical_difference: Of the images' largest logit differences, the 99th percentile.
        batch_difference: Largest logit difference between runs of one image and one of 64.
        logit_range: Largest minus smallest PyTorch logit.
        top1_agreement: Share of images with the same first class.
        accuracy: Top-1 accuracy of the exported graph.
        reference_accuracy: Top-1 accuracy of PyTorch.
    """

    images: int
    max_abs_difference: float
    typical_difference: float
    batch_difference: float
    logit_range: float
    top1_agreement: float
    accuracy: float
    reference_accuracy: float


def compare(session: Session, expected: Tensor, split: AnySplit) -> Comparison:
    """Run the exported graph over a split, and measure how far it is from PyTorch.

    Args:
        session: The exported graph.
        expected: PyTorch's logits on the split, float32 [N, C].
        split: The images and their labels.

    Raises:
        VerificationError: The probabilities are not the softmax of the logits, or a logit is not
            finite.
    """
    parts = [
        session.run(piece.cpu().numpy())
        for chunk in split.chunks()
        for piece in torch.split(chunk, _BATCH)
    ]
    logits = np.concatenate([part.logits for part in parts])
    if not np.isfinite(logits).all():
        raise VerificationError(
            "the exported graph gives logits that are not finite: a value overflows in its"
            " precision. Nothing was written"
        )
    _check_probabilities(parts)
    reference, labels = expected.numpy(), split.labels.cpu().numpy()
    differences = np.abs(logits - reference).max(axis=1)
    first, wanted = logits.argmax(axis=1), reference.argmax(axis=1)
    return Comparison(
        images=len(split),
        max_abs_difference=float(differences.max()),
        typical_difference=float(np.percentile(differences, _TYPICAL)),
        batch_difference=_batch_difference(session, split),
        logit_range=float(reference.max() - reference.min()),
        top1_agreement=float((first == wanted).mean()),
        accuracy=float((first == labels).mean()),
        reference_accuracy=float((wanted == labels).mean()),
    )


def _batch_difference(session: Session, split: AnySplit) -> float:
    """Run images one by one and together; an answer must not depend on its neighbours."""
    images = next(iter(split.chunks()))[:_TOGETHER].cpu().numpy()
    together = session.run(images).logits
    alone = np.concatenate([session.run(image[None]).logits for image in images])
    return float(np.abs(together - alone).max())


def check_operators(
    folded: FoldedNetwork, operators: dict[str, int], plain: dict[str, int]
) -> None:
    """Make sure that folding left the operators of the plain network and no others.

    A negative scale may turn an Add into a Sub, a zero one takes the join and its shortcut away,
    and one that does not fold keeps a Mul; nothing else may differ.

    Raises:
        VerificationError: Something else does.
    """
    expected = Counter(plain)
    for block in folded.blocks:
        if block.join is not Join.ADD:
            expected["Add"] -= 1
        if block.join is Join.SUB:
            expected["Sub"] += 1
        expected.subtract(_operators_of(block.dropped))
        if block.kept_mul is not None:
            expected["Mul"] += 1
    if (skip := folded.pixel_skip) is not None:
        if skip.join is not Join.ADD:
            expected["Add"] -= 1
        if skip.join is Join.SUB:
            expected["Sub"] += 1
        expected["Mul"] += (skip.image_mul is not None) + (skip.drawn_mul is not None)
    if +expected != Counter(operators):
        raise VerificationError(
            f"the folded graph has the operators {operators}, not {dict(+expected)} as it should."
            " Nothing was written"
        )


def _operators_of(shortcut: Conv | Padding | None) -> dict[str, int]:
    """Operators of a shortcut in the graph."""
    if shortcut is None:
        return {}
    if isinstance(shortcut, Conv):
        return {"Conv": 1}
    padded = bool(shortcut.before or shortcut.behind)
    return {"MaxPool": int(shortcut.stride > 1), "Pad": int(padded)}


def _check_probabilities(parts: list[Prediction]) -> None:
    for part in parts:
        softmax = torch.softmax(torch.from_numpy(part.logits), dim=1).numpy()
        if not np.allclose(part.probabilities, softmax, atol=1e-5):
            raise VerificationError("the probabilities are not the softmax of the logits")


class _Tracer(fx.Tracer):
    """Traces down to layers, of which Keras's batch norm is one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def traced_operators(network: AdaptiveNetwork) -> dict[str, int]:
    """Count the operators that PyTorch runs, in ONNX terms, by tracing the network."""
    modules = dict(network.named_modules())
    counts: Counter[str] = Counter()
    for node in _Tracer().trace(network).nodes:
        if node.op == "call_module":
            name = type(modules[str(node.target)]).__name__
        elif node.op == "call_function":
            name = node.target.__name__
        elif node.op == "call_method":
            name = str(node.target)
        else:
            continue
        if name not in _NOT_COMPUTED:
            counts[_OPERATOR_OF[name]] += 1
    return dict(sorted(counts.items()))

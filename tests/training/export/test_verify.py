from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from service.engine.session import Session, SessionOptions
from service.metadata import Input, ModelMetadata
from tests.training.networks.samples import options, randomise
from training.data.augment import Normalize
from training.data.dataset import Split
from training.evaluate import split_logits
from training.export.arrays import FoldedNetwork, FusedBlock, FusedNetwork
from training.export.fold import fold_network
from training.export.fuse import fuse_network
from training.export.graph import build_graph, count_operators, with_metadata
from training.export.verify import VerificationError, check_operators, compare, traced_operators
from training.networks.registry import AdaptiveNetwork, build_network
from training.networks.scale_options import ScaleOptions

SIZE = Input(height=16, width=16)
LABELS = ["a", "b", "c"]


def network_of(
    name: str = "resnet8", scales: ScaleOptions | None = None, *, padding: bool = False
) -> AdaptiveNetwork:
    torch.manual_seed(0)
    network = build_network(
        name, options(scales or ScaleOptions("channel"), width=0.25, padding=padding)
    )
    randomise(network, 0)
    return network.eval()


def fused_of(network: AdaptiveNetwork, w: list[list[float]]) -> FusedNetwork:
    """Fused, with these shortcut scales block by block: one value, or two that take turns."""
    fused, scales = fuse_network(network, [0.5] * 3, [0.25] * 3), iter(w)
    steps = tuple(
        replace(step, shortcut_scale=np.resize(next(scales), len(step.shortcut_scale)))
        if isinstance(step, FusedBlock)
        else step
        for step in fused.steps
    )
    return replace(fused, steps=steps)


def operators(folded: FoldedNetwork) -> dict[str, int]:
    return count_operators(build_graph(folded, SIZE))


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize(
    ("w", "difference"),
    [
        ([[0.5], [2.0], [1.0]], {}),
        ([[-0.5], [2.0], [1.0]], {"Add": -1, "Sub": 1}),
        ([[0.5, -0.5], [2.0], [1.0]], {"Mul": 1}),
        ([[1e-9], [2.0], [1.0]], {"Mul": 1}),
        ([[0.0], [2.0], [1.0]], {"Add": -1}),
    ],
)
def test_operators_differ_only_where_folding_says_so(w, difference, padding):
    # The first block's shortcut is the identity.
    fused = fused_of(network_of(padding=padding), w)
    folded = fold_network(fused)
    ours, plain = operators(folded), operators(fold_network(fused.plain_twin()))
    check_operators(folded, ours, plain)
    names = ours.keys() | plain.keys()
    found = {name: ours.get(name, 0) - plain.get(name, 0) for name in names}
    assert {name: count for name, count in found.items() if count} == difference


def test_a_dropped_shortcut_takes_its_operators_along():
    for padding, gone in ((False, {"Conv": 1}), (True, {"Pad": 1, "MaxPool": 1})):
        fused = fused_of(network_of(padding=padding), [[1.0], [0.0], [1.0]])
        folded = fold_network(fused)
        ours, plain = operators(folded), operators(fold_network(fused.plain_twin()))
        check_operators(folded, ours, plain)
        for name, count in {**gone, "Add": 1}.items():
            assert plain[name] - ours.get(name, 0) == count


@pytest.mark.parametrize("extra", ["Mul", "Conv", "BatchNormalization", "Relu", "Sub"])
def test_any_other_operator_is_refused(extra):
    fused = fused_of(network_of(), [[0.5], [2.0], [1.0]])
    folded = fold_network(fused)
    plain = operators(fold_network(fused.plain_twin()))
    more = {**plain, extra: plain.get(extra, 0) + 1}
    with pytest.raises(VerificationError, match=rf"{extra}.*Nothing was written"):
        check_operators(folded, more, plain)
    fewer = {**plain, "Conv": plain["Conv"] - 1}
    with pytest.raises(VerificationError, match="Conv"):
        check_operators(folded, fewer, plain)


def test_a_kept_mul_must_be_one_that_folding_reports():
    fused = fused_of(network_of(), [[0.5, -0.5], [2.0], [1.0]])
    folded = fold_network(fused)
    silent = replace(
        folded,
        steps=tuple(
            replace(s, kept_mul=None) if s is folded.blocks[0] else s for s in folded.steps
        ),
    )
    plain = operators(fold_network(fused.plain_twin()))
    with pytest.raises(VerificationError, match="Mul"):
        check_operators(silent, operators(folded), plain)


# Networks, what their scales look like, and the operators that PyTorch runs for them.
TRACED = [
    ("resnet8", ScaleOptions("block"), {"Mul": 3, "Add": 3, "BatchNormalization": 9, "Conv": 9}),
    ("resnet8", ScaleOptions("fixed"), {"Add": 3, "Relu": 7, "Gemm": 1, "Flatten": 1}),
    ("resnet8", ScaleOptions("fixed", init="zero"), {"Mul": 3}),
    ("resnet8", ScaleOptions("channel", "both", bound="softplus"), {"Mul": 6, "Softplus": 6}),
    ("resnet8", ScaleOptions("block", init="zero", bound="tanh"), {"Mul": 3, "Tanh": 3}),
    ("wrn-10-1", ScaleOptions("block"), {"Mul": 3, "BatchNormalization": 7, "Relu": 7}),
    ("fast8", ScaleOptions("block"), {"MaxPool": 3, "Conv": 7, "Relu": 7}),
    ("paper8", ScaleOptions("block"), {"Pad": 4, "MaxPool": 1, "BatchNormalization": 21}),
    ("first-upload", ScaleOptions("block", "branch"), {"Reshape": 1, "Gemm": 2, "Mul": 1}),
]


@pytest.mark.parametrize(("name", "scales", "expected"), TRACED)
def test_traced_operators_are_what_pytorch_runs(name, scales, expected):
    found = traced_operators(network_of(name, scales))
    assert {operator: found.get(operator) for operator in expected} == expected
    if scales.granularity == "fixed" and scales.init == "one":
        assert "Mul" not in found


def test_traced_padding():
    found = traced_operators(network_of(padding=True))
    assert (found["Slice"], found["Pad"], found["Conv"]) == (2, 2, 7)


def split_of(count: int = 5) -> Split:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(count) % 3)


def session_of(graph: onnx.ModelProto) -> Session:
    described = ModelMetadata(labels=LABELS, input=SIZE)
    return Session(with_metadata(graph, described), SessionOptions("cpu"))


def test_a_comparison_measures_what_is_there():
    network, split = network_of(), split_of()
    normalize = Normalize([0.5] * 3, [0.25] * 3)
    expected = split_logits(network, normalize, split, grey=False)
    graph = build_graph(fold_network(fuse_network(network, [0.5] * 3, [0.25] * 3)), SIZE)
    comparison = compare(session_of(graph), expected, split)
    assert comparison.images == 5
    assert comparison.max_abs_difference <= 1e-5 * comparison.logit_range
    assert comparison.logit_range == pytest.approx(float(expected.max() - expected.min()))
    assert comparison.top1_agreement == 1
    right = (expected.argmax(dim=1) == split.labels).double().mean()
    assert comparison.accuracy == pytest.approx(float(right))
    # Against other logits, the difference is just what was added to one of them.
    other = expected.clone()
    other[3, 1] += 0.5
    moved = compare(session_of(graph), other, split)
    assert moved.max_abs_difference == pytest.approx(0.5, rel=1e-3)
    turned = compare(session_of(graph), -expected, split)
    assert turned.top1_agreement < 1


def test_probabilities_must_be_the_softmax():
    network, split = network_of(), split_of()
    expected = split_logits(network, Normalize([0.5] * 3, [0.25] * 3), split, grey=False)
    graph = build_graph(fold_network(fuse_network(network, [0.5] * 3, [0.25] * 3)), SIZE)
    (softmax,) = (node for node in graph.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Sigmoid"
    del softmax.attribute[:]
    with pytest.raises(VerificationError, match="softmax"):
        compare(session_of(graph), expected, split)

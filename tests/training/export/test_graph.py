"""The written graph against PyTorch in float64: every network, every granularity."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from service.metadata import Input
from tests.training.networks.samples import options, randomise, set_scales
from training.data.augment import LUMA
from training.export.arrays import FoldedNetwork
from training.export.fold import fold_network
from training.export.fuse import fuse_network
from training.export.graph import build_graph, count_operators
from training.export.verify import check_operators, traced_operators
from training.networks.blocks import PreActivationBlock
from training.networks.registry import NETWORKS, AdaptiveNetwork, build_network
from training.networks.scale_options import Bound, Granularity, Placement, ScaleOptions

GRANULARITIES: tuple[Granularity, ...] = (
    "fixed",
    "unified",
    "block_type",
    "stage",
    "block",
    "channel",
)
PLACEMENTS: tuple[Placement, ...] = ("shortcut", "branch", "both")
# The bound, and mean and deviation of the parameters: scales near 1, near -1, of both signs.
DRAWS: tuple[tuple[Bound, float, float], ...] = (
    ("softplus", 0.6, 0.1),
    ("none", -1.0, 0.1),
    ("none", 0.0, 1.0),
    ("tanh", 0.0, 2.0),
)
MEAN, STD = [0.45, 0.5, 0.55], [0.2, 0.25, 0.3]
TOLERANCE = 1e-4  # of the range of the logits, as an export allows
SIZE = Input(height=16, width=16)
# Networks whose shape changes, and which take padding there.
PADDED = [n for n in NETWORKS if not n.startswith(("wrn", "fast8"))]


def logits_of(graph: onnx.ModelProto, pixels: torch.Tensor) -> NDArray[np.float32]:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"images": pixels.numpy()})[0]
    return logits


def drawn_pixels(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=generator)


def check(network: AdaptiveNetwork, *, plain: bool) -> FoldedNetwork:
    """Fold, write and run a network; ``plain``: no operator may differ from the plain twin's."""
    network.eval()
    fused = fuse_network(network, MEAN, STD)
    folded = fold_network(fused)
    graph, twin = build_graph(folded, SIZE), build_graph(fold_network(fused.plain_twin()), SIZE)
    operators, expected = count_operators(graph), count_operators(twin)
    check_operators(folded, operators, expected)
    if plain:
        assert operators == expected
    kept = len(folded.kept_muls)
    if folded.pixel_skip is not None and folded.pixel_skip.drawn_mul is not None:
        kept += folded.pixel_skip.image_mul is not None
    assert operators.get("Mul", 0) == kept
    traced = traced_operators(network)  # names every operator, or raises
    assert traced["Conv"] >= operators["Conv"] - 1  # the normalisation is one, a dropped one none
    pixels = drawn_pixels()
    mean, std = torch.tensor([MEAN, STD], dtype=torch.float64)
    x = ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected_logits = network.double()(x).numpy()
    difference = np.abs(logits_of(graph, pixels) - expected_logits).max()
    logit_range = expected_logits.max() - expected_logits.min()
    assert logit_range > 1e-3
    assert difference <= TOLERANCE * logit_range
    return folded


def case(name: str, granularity: Granularity) -> int:
    """A number that differs between neighbours of the grid, so that it is covered evenly."""
    return 7 * list(NETWORKS).index(name) + 5 * GRANULARITIES.index(granularity)


@pytest.mark.parametrize(
    ("name", "granularity"), list(itertools.product(NETWORKS, GRANULARITIES[1:]))
)
def test_the_graph_computes_what_pytorch_does(name, granularity):
    number = case(name, granularity)
    bound, mean, std = DRAWS[number % len(DRAWS)]
    placement = PLACEMENTS[number % len(PLACEMENTS)]
    first = 0.5 if bound == "tanh" else 1.0
    scales = ScaleOptions(granularity, placement, "constant", first, bound=bound)
    torch.manual_seed(number)
    network = build_network(name, options(scales, width=0.05))
    randomise(network, number)
    set_scales(network, mean, std, number)
    check(network, plain=bound == "softplus")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("positive", [True, False])
def test_fixed_scales(name, positive):
    number = list(NETWORKS).index(name)
    value = ((1.0, 1.1) if positive else (-1.0, 0.0))[number % 2]
    placement: Placement = "both" if number % 4 < 2 and value else "shortcut"
    scales = ScaleOptions("fixed", placement, "constant", value)
    torch.manual_seed(number)
    network = build_network(name, options(scales))
    randomise(network, number)
    folded = check(network, plain=value > 0)
    if value:
        assert folded.kept_muls == ()
    else:
        assert all(block.dropped is None or block.shortcut is None for block in folded.blocks)


@pytest.mark.parametrize(("number", "name"), list(enumerate(PADDED)))
def test_shortcuts_without_parameters(number, name):
    bound, mean, std = DRAWS[number % len(DRAWS)]
    first = 0.5 if bound == "tanh" else 1.0
    scales = ScaleOptions(
        GRANULARITIES[1 + number % 5],
        PLACEMENTS[number % 3],
        "constant",
        first,
        bound=bound,
    )
    torch.manual_seed(number)
    network = build_network(name, options(scales, padding=True))
    randomise(network, number)
    set_scales(network, mean, std, number)
    folded = check(network, plain=bound == "softplus")
    operators = count_operators(build_graph(folded, SIZE))
    assert operators["Pad"] >= 1


def test_signs_fold_into_what_follows_a_pre_activation_block():
    network = build_network("wrn-16-4", options(ScaleOptions("channel", "both")))
    randomise(network, 0)
    set_scales(network, 0.0, 1.0, 0)
    assert any(isinstance(b, PreActivationBlock) for _, b in network.named_blocks())
    folded = check(network, plain=True)  # scales of both signs, and yet no Sub and no Mul
    assert any((block.output_scale < 0).any() for block in folded.blocks)


def test_one_grey_channel_is_luma():
    scales = ScaleOptions("block", "both", "constant", -0.7)
    network = build_network("resnet8", options(scales, channels=1, width=0.25)).eval()
    randomise(network, 0)
    graph = build_graph(fold_network(fuse_network(network, [0.4], [0.3])), SIZE)
    pixels = drawn_pixels()
    luma = (pixels.double() * torch.tensor(LUMA, dtype=torch.float64)).sum(dim=3, keepdim=True)
    x = ((luma / 255 - 0.4) / 0.3).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network.double()(x).numpy()
    assert np.allclose(logits_of(graph, pixels), expected, atol=1e-4 * np.ptp(expected))


def test_the_graph_takes_any_batch_and_gives_probabilities():
    network = build_network("fast8", options()).eval()
    graph = build_graph(fold_network(fuse_network(network, MEAN, STD)), SIZE)
    (image,) = graph.graph.input
    shape = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.type.tensor_type.elem_type, shape) == (onnx.TensorProto.UINT8, ["N", 16, 16, 3])
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 7):
        logits, probabilities = session.run(None, {"images": drawn_pixels(count).numpy()})
        assert logits.shape == probabilities.shape == (count, 3)
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)

"""Does folding keep every registered network what it is, at every granularity of its scales?

Trained weights would prove no more: folding is algebra. So each network is narrow, with random
weights, batch norm statistics of the images themselves, random scales, and a classifier moved so
that no class wins everywhere. Scales are as trained ones are, near 1 on shortcuts, smaller on
branches: a deep random network whose shortcuts fade is chaotic, and PyTorch in float32 then differs
from itself in float64 by more than any bound.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from service.engine.session import Session, SessionOptions, available_cpus
from service.metadata import Input, ModelMetadata
from training.data.augment import Normalize
from training.evaluate import predict_logits
from training.export.arrays import FoldedNetwork, Join
from training.export.fold import fold_network
from training.export.fuse import fuse_network
from training.export.graph import build_graph, count_operators, with_metadata
from training.export.verify import TOLERANCE, VerificationError, check_operators
from training.networks.network import NetworkOptions
from training.networks.registry import AdaptiveNetwork, describe_network, find_network
from training.networks.scale_options import Granularity, ScaleOptions

GRANULARITIES: tuple[Granularity, ...] = (
    "fixed",
    "unified",
    "block_type",
    "stage",
    "block",
    "channel",
)
_PARAMETERS = 60_000  # about; the cost grows with their number
_NARROWEST = 0.05
_CLASSES = 10
_SHALLOW = 9  # blocks
_FIXED = 2.0  # the paper's control
_MEAN, _STD = [0.48, 0.45, 0.42], [0.25, 0.24, 0.26]
_STATISTICS_IMAGES = 200


@dataclass(frozen=True)
class FoldingRow:
    """One network at one granularity.

    Attributes:
        network: Its name.
        granularity: Which blocks share a scale.
        width: Multiple of the published channel counts.
        difference: Largest logit difference between PyTorch and the folded graph, of the range of
            the logits.
        images: Number of images.
        same_first_class: Images with the same first class on both sides.
        classes: Classes that come first on some image.
        operators: Of the folded graph against the plain twin: ``equal``, or what differs and why.
        passed: Difference and first classes are as they should be, and operators differ by nothing
            but what a sign asks for.
    """

    network: str
    granularity: str
    width: float
    difference: float
    images: int
    same_first_class: int
    classes: int
    operators: str
    passed: bool


def check_network(name: str, granularity: Granularity, images: Tensor) -> FoldingRow:
    """Fold one network with random weights, and compare.

    Args:
        name: In the registry.
        granularity: Of its scales, which stand on both terms of every join.
        images: Real ones, uint8 [N, size, size, 3].

    Raises:
        ValueError: There is no such network.
    """
    torch.manual_seed(zlib.crc32(f"{name} {granularity}".encode()))
    width = _narrow(name)
    network = _random_network(name, granularity, width, images)
    normalize = Normalize(_MEAN, _STD)
    expected = predict_logits(network, normalize, images, grey=False).numpy()
    fused = fuse_network(network, _MEAN, _STD)
    folded = fold_network(fused)
    size = Input(height=images.shape[1], width=images.shape[2])
    graph = build_graph(folded, size)
    plain = count_operators(build_graph(fold_network(fused.plain_twin()), size))
    try:
        check_operators(folded, count_operators(graph), plain)
        operators = _differing(folded)
    except VerificationError as error:
        operators = f"WRONG: {error}"
    metadata = ModelMetadata(labels=[str(index) for index in range(_CLASSES)], input=size)
    session = Session(
        with_metadata(graph, metadata), SessionOptions("cpu", threads=available_cpus())
    )
    logits = np.concatenate([session.run(part.numpy()).logits for part in torch.split(images, 250)])
    difference = float(np.abs(logits - expected).max() / (expected.max() - expected.min()))
    first = expected.argmax(axis=1)
    same = int((logits.argmax(axis=1) == first).sum())
    return FoldingRow(
        network=name,
        granularity=granularity,
        width=width,
        difference=difference,
        images=len(images),
        same_first_class=same,
        classes=len(np.unique(first)),
        operators=operators,
        passed=difference <= TOLERANCE
        and same == len(images)
        and not operators.startswith("WRONG"),
    )


def _narrow(name: str) -> float:
    """A width at which the network is small: parameters grow with its square."""
    published = int(describe_network(name)["parameters"])
    return round(min(1.0, max(_NARROWEST, math.sqrt(_PARAMETERS / published))), 2)


@torch.no_grad()
def _random_network(
    name: str, granularity: Granularity, width: float, images: Tensor
) -> AdaptiveNetwork:
    entry = find_network(name)
    scales = ScaleOptions(granularity, "both", "constant", _FIXED)
    options = NetworkOptions(3, _CLASSES, images.shape[1], width, scales, entry.shortcut)
    network = entry.build(options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the next batch, and of no other
            if module.weight.requires_grad:
                module.weight.normal_(1, 0.3)
            module.bias.normal_(0, 0.3)
    _draw_scales(network)
    normalize = Normalize(_MEAN, _STD)
    pixels = images[:_STATISTICS_IMAGES].permute(0, 3, 1, 2).float() / 255
    network.train()
    network(normalize(pixels))
    network.eval()
    logits = predict_logits(network, normalize, images[:_STATISTICS_IMAGES], grey=False)
    spread = logits.std(dim=0).clamp(min=1e-6)
    network.classifier.weight.div_(spread[:, None])
    network.classifier.bias.sub_(logits.mean(dim=0)).div_(spread)
    return network


@torch.no_grad()
def _draw_scales(network: AdaptiveNetwork) -> None:
    """Learned scales: 1 to 1.1 on shortcuts, smaller on branches, and some below 0.

    Of a deep network only the last block's own shortcut, where it is not shared: each negative one
    takes away most of what came before.
    """
    blocks = network.named_blocks()
    shared = len({id(block.shortcut_scale) for _, block in blocks}) < len(blocks)
    for index, (_, block) in enumerate(blocks):
        if len(blocks) <= _SHALLOW:
            # Beside a small branch, a negative shortcut would leave nothing above 0.
            negative, weakest, strongest = min(0.5, 2 / len(blocks)), 0.6, 0.9
        else:
            negative = 0.5 if index == len(blocks) - 1 and not shared else 0.0
            weakest, strongest = 0.1, 0.3
        for scale, low, high, below in (
            (block.shortcut_scale, 1.0, 1.1, negative),
            (block.branch_scale, weakest, strongest, 0.5),
        ):
            if scale is not None and isinstance(scale.raw, nn.Parameter):
                signs = torch.where(torch.rand_like(scale.raw) < below, -1.0, 1.0)
                scale.raw.copy_(torch.empty_like(scale.raw).uniform_(low, high) * signs)


def _differing(folded: FoldedNetwork) -> str:
    """What differs from the plain twin, all of it for the sign of a scale."""
    subs = sum(block.join is Join.SUB for block in folded.blocks)
    muls = [block.kept_mul for block in folded.blocks]
    if (skip := folded.pixel_skip) is not None:
        subs += skip.join is Join.SUB
        muls += [skip.image_mul, skip.drawn_mul]
    kept = [mul for mul in muls if mul is not None]
    signs = sum(bool((np.abs(mul) == 1).all()) for mul in kept)
    said = [f"{subs} Sub for Add (scale below 0)"] if subs else []
    if signs:
        said.append(f"{signs} Mul (channels of both signs)")
    if len(kept) > signs:
        said.append(f"{len(kept) - signs} Mul (product of scales beyond 2^16)")
    return ", ".join(said) or "equal"

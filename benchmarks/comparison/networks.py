"""The models: networks of our own training package with seeded weights, as ONNX files.

Speed does not depend on weights; whether answers can be told apart does. Batch norm therefore gets
the statistics of the benchmark's own pictures, and the classifier is scaled so that logits have a
spread like a trained network's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from comparison.bodies import Pixels
from service.metadata import Input, ModelMetadata
from training.data.augment import Normalize, to_channels
from training.export.fold import fold_network
from training.export.fuse import fuse_network
from training.export.graph import build_graph, with_metadata
from training.networks.network import NetworkOptions, ResidualNetwork
from training.networks.registry import build_network

_MEAN, _STD = [0.5] * 3, [0.25] * 3
_LOGIT_SPREAD = 3.0
_SEED = 20261121


@dataclass(frozen=True)
class Network:
    """One model of the benchmark.

    Attributes:
        name: Under which it is served.
        network: Its name in the registry.
        px: Height and width of its input.
        classes: Number of classes.
    """

    name: str
    network: str
    px: int
    classes: int


NETWORKS = (
    Network("resnet20", "resnet20", 32, 10),
    Network("resnet18", "resnet18", 32, 10),
    Network("resnet50", "resnet50", 224, 1000),
)


def write_network(network: Network, repository: Path, samples: Pixels) -> Path:
    """Write ``<repository>/<name>/1/model.onnx`` unless it is there.

    Args:
        network: Which.
        repository: A folder that our service can serve.
        samples: Pictures like those that will be sent, uint8 [N, px, px, 3].

    Returns:
        The model file.
    """
    path = repository / network.name / "1" / "model.onnx"
    if path.exists():
        return path
    torch.manual_seed(_SEED)
    options = NetworkOptions(3, network.classes, network.px)
    built = build_network(network.network, options)
    assert isinstance(built, ResidualNetwork)
    _fit(built, Normalize(_MEAN, _STD)(to_channels(torch.from_numpy(samples), grey=False)))
    size = Input(height=network.px, width=network.px)
    labels = [str(index) for index in range(network.classes)]
    folded = fold_network(fuse_network(built, _MEAN, _STD))
    graph = build_graph(folded, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_bytes(with_metadata(graph, ModelMetadata(labels=labels, input=size)))
    partial.rename(path)
    return path


def digest(path: Path) -> str:
    """The start of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@torch.no_grad()
def _fit(network: ResidualNetwork, x: torch.Tensor) -> None:
    """Give batch norm the statistics of these images, and the logits a spread."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    network(x)
    network.eval()
    logits = network(x)
    spread = _LOGIT_SPREAD / max(float(np.finfo(np.float32).tiny), float(logits.std(dim=0).mean()))
    classifier = network.classifier
    middle = classifier.bias - logits.mean(dim=0)
    classifier.weight.mul_(spread)
    classifier.bias.copy_(middle * spread)

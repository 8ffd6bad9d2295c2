"""Every network by name; ``adaresnet networks`` and the tests iterate over it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from training.networks.cifar import cifar_resnet
from training.networks.fast import fast8
from training.networks.first_upload import FirstUpload
from training.networks.imagenet import ImageNetResNet
from training.networks.network import NetworkOptions, ResidualNetwork
from training.networks.paper import keras_resnet50, paper8
from training.networks.resnext import resnext29
from training.networks.scale_options import ScaleOptions
from training.networks.wide import wide_resnet

AdaptiveNetwork = ResidualNetwork | FirstUpload
Build = Callable[[NetworkOptions], AdaptiveNetwork]


@dataclass(frozen=True)
class Entry:
    """A registered network and where it was published.

    Attributes:
        build: Makes it, with fresh weights.
        classes: Number of classes in the publication.
        image_px: Size of the images there.
        source: The publication.
        shortcut: Of the published network, where the shape changes.
    """

    build: Build
    classes: int
    image_px: int
    source: str
    shortcut: Literal["projection", "padding"] = "projection"


_HE = "He et al. 2015"
_IMAGENET_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _entries() -> dict[str, Entry]:
    found = {}
    for n in (1, 2, 3, 5, 7, 9, 18):
        found[f"resnet{6 * n + 2}"] = Entry(partial(cifar_resnet, n), 10, 32, _HE, "padding")
    for depth, blocks in _IMAGENET_BLOCKS.items():
        build = ImageNetResNet(blocks, "imagenet", bottleneck=depth >= 50)
        found[f"resnet{depth}"] = Entry(build, 1000, 224, _HE)
        build = ImageNetResNet(blocks, "cifar", bottleneck=depth >= 50)
        found[f"resnet{depth}-cifar"] = Entry(build, 10, 32, _HE)
    for depth, widening in ((16, 4), (16, 8), (28, 10), (40, 4)):
        found[f"wrn-{depth}-{widening}"] = _wide(depth, widening)
    for groups, channels in ((8, 64), (16, 64)):
        found[f"resnext29-{groups}x{channels}d"] = _resnext29(groups, channels)
    build = ImageNetResNet((3, 4, 6, 3), "imagenet", bottleneck=True, groups=32, group_channels=4)
    found["resnext50-32x4d"] = Entry(build, 1000, 224, "Xie et al. 2016")
    found["fast8"] = Entry(fast8, 10, 32, "after Jordan 2024")
    found["paper8"] = Entry(paper8, 10, 32, "AdaResNet 2024, published script")
    found["keras-resnet50"] = Entry(keras_resnet50, 10, 32, "AdaResNet 2024, baseline")
    found["first-upload"] = Entry(FirstUpload, 10, 32, "AdaResNet 2024, first upload")
    return found


def _wide(depth: int, widening: int) -> Entry:
    build = partial(wide_resnet, depth, widening)
    return Entry(build, 10, 32, "Zagoruyko and Komodakis 2016")


def _resnext29(groups: int, channels: int) -> Entry:
    return Entry(partial(resnext29, groups, channels), 10, 32, "Xie et al. 2016")


NETWORKS: Mapping[str, Entry] = MappingProxyType(_entries())

# Families whose names carry numbers: any of them can be built, the registry lists the usual ones.
_PATTERNS: Mapping[str, Callable[[int, int], Entry]] = MappingProxyType(
    {r"wrn-(\d+)-(\d+)": _wide, r"resnext29-(\d+)x(\d+)d": _resnext29}
)


def find_network(name: str) -> Entry:
    """Find a network by name.

    Raises:
        ValueError: No network has this name.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    for pattern, make in _PATTERNS.items():
        if match := re.fullmatch(pattern, name):
            return make(int(match[1]), int(match[2]))
    raise ValueError(
        f"no network is named {name!r}; there are {', '.join(NETWORKS)}, and others of the"
        " patterns wrn-DEPTH-WIDENING and resnext29-GROUPSxCHANNELSd"
    )


def build_network(name: str, options: NetworkOptions) -> AdaptiveNetwork:
    """Build a network with fresh weights.

    Raises:
        ValueError: No network has this name, or it can't be built with these options.
    """
    return find_network(name).build(options)


def describe_network(name: str) -> dict[str, str | int]:
    """One row of the list: the plain network as published.

    Returns:
        ``name``, ``parameters`` (trained ones; batch norm's statistics are not), ``macs`` (of
        convolutions and the classifier, for one image), ``blocks`` (joins with a scale),
        ``classes``, ``image_px`` and ``source``.
    """
    entry = find_network(name)
    options = NetworkOptions(
        channels=3,
        classes=entry.classes,
        image_px=entry.image_px,
        scales=ScaleOptions(granularity="fixed"),
        shortcut=entry.shortcut,
    )
    with torch.device("meta"):
        network = entry.build(options)
    return {
        "name": name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "macs": count_macs(network, options.channels, options.image_px),
        "blocks": len(network.named_blocks()),
        "classes": entry.classes,
        "image_px": entry.image_px,
        "source": entry.source,
    }


@torch.no_grad()
def count_macs(network: nn.Module, channels: int, image_px: int) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image."""
    total = 0

    def convolution(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += module.weight[0].numel() * output.shape[1:].numel()

    def linear(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Linear)
        total += module.weight.numel()

    hooks = [
        module.register_forward_hook(convolution if isinstance(module, nn.Conv2d) else linear)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    network(torch.zeros(1, channels, image_px, image_px, device=device))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return total

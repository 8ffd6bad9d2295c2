"""Every network by name; tests iterate over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from training.networks.cifar import CifarResNet, NetworkOptions

# 6n + 2 layers with n blocks a stage.
NETWORKS: Mapping[str, Callable[[NetworkOptions], CifarResNet]] = MappingProxyType(
    {f"resnet{6 * n + 2}": partial(CifarResNet, n) for n in (1, 2, 3, 5, 7, 9, 18)}
)


def build_network(name: str, options: NetworkOptions) -> CifarResNet:
    """Build a network with fresh weights.

    Raises:
        ValueError: No network has this name.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network is named {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name](options)

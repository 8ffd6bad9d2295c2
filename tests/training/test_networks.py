from __future__ import annotations

import pytest
import torch

from training.networks.cifar import NetworkOptions
from training.networks.registry import NETWORKS, build_network

# He et al. 2015 table 6, in millions, with identity shortcuts; projections add a little.
PUBLISHED_MILLIONS = {
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet44": 0.66,
    "resnet56": 0.85,
    "resnet110": 1.7,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_logits_and_gradients_for_every_scale(name):
    network = build_network(name, NetworkOptions(channels=1, classes=4))
    logits = network(torch.randn(2, 1, 8, 8))
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert all(block.shortcut_scale.scale.grad is not None for _, block in network.named_blocks())
    layers = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in network.modules())
    projections = sum(block.projection is not None for _, block in network.named_blocks())
    assert layers - projections == int(name.removeprefix("resnet"))


@pytest.mark.parametrize(("name", "millions"), PUBLISHED_MILLIONS.items())
def test_parameter_counts(name, millions):
    network = build_network(name, NetworkOptions(channels=3, classes=10))
    extra = sum(
        p.numel()
        for _, block in network.named_blocks()
        if block.projection is not None
        for p in block.projection.parameters()
    )
    scales = len(network.named_blocks())
    total = sum(p.numel() for p in network.parameters()) - extra - scales
    assert total / 1e6 == pytest.approx(millions, abs=0.03)


def test_the_block_is_the_papers_equation():
    torch.manual_seed(0)
    network = build_network("resnet8", NetworkOptions(channels=3, classes=2, shortcut_init=-0.3))
    network.eval()
    for _, block in network.named_blocks():
        x = torch.rand(2, block.first.conv.in_channels, 6, 6)
        branch = block.last(torch.relu(block.first(x)))
        shortcut = x if block.projection is None else block.projection(x)
        assert torch.allclose(block(x), torch.relu(branch - 0.3 * shortcut), atol=1e-6)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="resnet20"):
        build_network("resnet21", NetworkOptions(channels=3, classes=2))

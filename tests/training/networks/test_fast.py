from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.training.networks.samples import options
from training.networks.fast import WhiteningStem
from training.networks.layers import ConvRelu
from training.networks.registry import build_network


def stem_of(network: torch.nn.Module) -> WhiteningStem:
    (stem,) = (m for m in network.modules() if isinstance(m, WhiteningStem))
    return stem


def test_the_stem_whitens_patches():
    generator = torch.Generator().manual_seed(0)
    # Pictures whose neighbouring pixels are alike, as those of photos are.
    images = F.avg_pool2d(torch.randn(200, 3, 18, 18, generator=generator), 3, 1) * 4
    stem = WhiteningStem(3)
    stem.whiten(images)
    with torch.no_grad():
        out = F.conv2d(images, stem.conv.weight)
    half = len(stem.conv.weight) // 2
    assert torch.equal(out[:, :half], -out[:, half:])  # a ReLU follows: both signs are kept
    flat = out[:, :half].transpose(0, 1).flatten(1)
    covariance = (flat @ flat.T / flat.shape[1]).double()
    assert torch.allclose(covariance, torch.eye(half, dtype=torch.float64), atol=0.02)


def test_directions_that_hardly_vary_are_not_blown_up():
    stem = WhiteningStem(1)
    stem.whiten(torch.ones(10, 1, 8, 8))
    assert float(stem.conv.weight.abs().max()) <= 5e-4**-0.5


def test_only_the_stems_bias_learns():
    network = build_network("fast8", options())
    stem = stem_of(network)
    network(torch.randn(4, 3, 16, 16)).logsumexp(dim=1).sum().backward()
    assert stem.conv.weight.grad is None
    assert stem.conv.bias is not None
    assert stem.conv.bias.grad is not None


def test_convolutions_begin_by_passing_on_what_comes_in():
    network = build_network("fast8", options(width=0.25))
    body = dict(network.named_children())["body"]
    down = dict(body.named_children())["stage1_down"]
    assert isinstance(down, ConvRelu)
    conv = down.unit.conv
    x = torch.randn(2, conv.in_channels, 8, 8)
    passed = min(conv.in_channels, conv.out_channels)
    assert torch.allclose(conv(x)[:, :passed], x[:, :passed], atol=1e-6)

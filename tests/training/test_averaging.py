from __future__ import annotations

import pytest
import torch
from torch import nn

from training.averaging import AveragedWeights, reestimate_norms, tensors_of
from training.networks.network import NetworkOptions
from training.networks.registry import build_network
from training.networks.scale_options import ScaleOptions


def test_the_average_follows_the_formula():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = AveragedWeights(network, decay=0.9)
    expected = {name: t.detach().clone().double() for name, t in tensors_of(network)}
    for step in (0, 1, 200):
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn_like(weight))
        network(torch.randn(4, 2))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, tensor in tensors_of(network):
            expected[name] = decay * expected[name] + (1 - decay) * tensor.detach().double()
    held = dict(tensors_of(average.network))
    for name, tensor in expected.items():
        if "num_batches" in name:
            assert held[name] == 3  # counts are copied
        else:
            torch.testing.assert_close(held[name].double(), tensor, msg=name, rtol=1e-5, atol=1e-6)


def test_the_average_is_no_part_of_training():
    network = nn.Linear(2, 2)
    average = AveragedWeights(network, decay=0.5)
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_a_shared_scale_is_averaged_once():
    options = NetworkOptions(3, 2, 16, scales=ScaleOptions(granularity="unified"))
    network = build_network("resnet8", options)
    average = AveragedWeights(network, decay=0.5)
    scale = next(p for name, p in network.named_parameters() if name.endswith("raw"))
    with torch.no_grad():
        scale.add_(1)
    average.update(1000)
    held = {name: t for name, t in tensors_of(average.network) if name.endswith("raw")}
    assert [float(value) for value in held.values()] == [1.5]


def test_norms_are_averages_over_batches():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, momentum=0.2)
    network = nn.Sequential(norm).eval()
    network(torch.randn(2, 3, 4, 4))
    batches = [torch.randn(4, 3, 5, 5) * scale + scale for scale in (1.0, 2.0, 5.0)]
    reestimate_norms(network, batches)
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in batches]).mean(0)
    variances = torch.stack([x.var(dim=(0, 2, 3)) for x in batches]).mean(0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == pytest.approx(0.2)
    assert not network.training

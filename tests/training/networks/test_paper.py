"""The facts of the author's Keras scripts that make a reproduction one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.networks.samples import PLAIN, options, randomise
from training.networks.blocks import ConvBlock
from training.networks.first_upload import FirstUpload
from training.networks.layers import BiasedBatchNorm, ConvUnit
from training.networks.network import NetworkOptions
from training.networks.registry import build_network
from training.networks.scale_options import ScaleOptions

KERAS_NETWORKS = {"paper8": 1e-3, "keras-resnet50": 1.001e-5, "first-upload": 1.001e-5}


@pytest.mark.parametrize(("name", "epsilon"), KERAS_NETWORKS.items())
def test_layers_are_keras_s(name, epsilon):
    network = build_network(name, options())
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, BiasedBatchNorm) for norm in norms)
    assert {(norm.eps, norm.momentum) for norm in norms} == {(epsilon, 0.01)}
    assert all(m.bias is not None for m in network.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", KERAS_NETWORKS)
def test_first_values_are_keras_s(name):
    torch.manual_seed(0)
    network = build_network(name, options(width=0.25))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            area = weight[0, 0].numel()
            # GlorotUniform: within +-sqrt(6 / (fan_in + fan_out)).
            limit = (6 / (area * (weight.shape[0] + weight.shape[1]))) ** 0.5
            assert float(weight.abs().max()) <= limit
            if weight.numel() > 1000:
                assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.1)
            assert module.bias is not None
            assert not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()


def sizes(network: nn.Module, image_px: int, channels: int = 3) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, module in network.named_modules():
        if isinstance(module, ConvUnit | ConvBlock) or name.endswith("stem_pool"):

            def listen(
                module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name
            ) -> None:
                found[name.removeprefix("body.")] = output.shape[2]

            module.register_forward_hook(listen)
    network.eval()
    network(torch.zeros(1, channels, image_px, image_px))
    return found


@pytest.mark.parametrize(
    ("image_px", "maps"),
    [(32, [16, 8, 4, 2, 1, 1]), (28, [14, 7, 4, 2, 1, 1]), (33, [17, 9, 5, 3, 2, 1])],
)
def test_the_published_networks_maps_shrink_as_tensorflows_do(image_px, maps):
    network = build_network("paper8", options(image_px=image_px))
    found = sizes(network, image_px)
    names = ["stem.unit", "stem_pool", *(f"stage{stage}_block1" for stage in range(1, 5))]
    assert [found[name] for name in names] == maps
    kinds = [block.shortcut_kind for _, block in network.named_blocks()]
    assert kinds == ["projection", "identity"] * 4


def test_the_published_networks_padding_is_more_on_the_right():
    network = build_network("paper8", options(image_px=32))
    units = {n: m for n, m in network.named_modules() if isinstance(m, ConvUnit)}
    assert units["body.stem.unit"].pads == (2, 3)
    assert units["body.stage1_block1.branch.0"].pads == (0, 1)
    assert units["body.stage1_block2.branch.0"].pads == (1, 1)
    # On odd maps the two sides are alike.
    odd = {
        n: m
        for n, m in build_network("paper8", options(image_px=33)).named_modules()
        if isinstance(m, ConvUnit)
    }
    assert odd["body.stem.unit"].pads == (3, 3)
    assert odd["body.stage1_block1.branch.0"].pads == (1, 1)


def test_the_baseline_is_keras_applications_resnet50():
    network = build_network("keras-resnet50", options(image_px=32))
    found = sizes(network, 32)
    assert [found[f"stage{stage}_block1"] for stage in range(1, 5)] == [8, 4, 2, 1]
    assert (found["stem.unit"], found["stem_pool"]) == (16, 8)
    # The first convolution of a stage strides, not the second.
    assert (found["stage2_block1.branch.0"], found["stage2_block1.branch.1"]) == (4, 4)
    assert sum(isinstance(b, ConvBlock) for _, b in network.named_blocks()) == 3 + 4 + 6 + 3


class TestFirstUpload:
    def test_it_is_the_papers_algorithm(self):
        scales = ScaleOptions("unified", "branch", "constant", 0.4)
        network = build_network("first-upload", options(scales))
        assert isinstance(network, FirstUpload)
        randomise(network, 1)
        network.eval()
        skip = network.pixel_skip
        x = torch.randn(2, 3, 16, 16)
        features = x
        for step in skip.body.values():
            features = step(features)
        drawn = torch.relu(skip.dense(features.mean(dim=(2, 3)))).reshape(2, 3, 16, 16)
        assert bool(drawn.any())
        expected = network.classifier((x + 0.4 * drawn).flatten(1))
        assert torch.allclose(network(x), expected, atol=1e-5)

    def test_it_has_one_learned_weight(self):
        scales = ScaleOptions("unified", "branch", "normal", std=1.41)
        learned = build_network("first-upload", options(scales))
        plain = build_network("first-upload", options(PLAIN))
        (name,) = dict(learned.named_parameters()).keys() - dict(plain.named_parameters()).keys()
        assert name == "pixel_skip.branch_scale.raw"
        assert dict(learned.named_parameters())[name].shape == ()

    def test_channels_are_those_of_the_image(self):
        network = build_network("first-upload", options(ScaleOptions("channel", "both")))
        (_, skip), *others = network.named_blocks()
        assert others == []
        assert skip.shortcut_scale is not None
        assert len(skip.shortcut_scale.values()) == 3

    def test_a_dropped_drawing_leaves_the_image(self):
        network = build_network("first-upload", options(PLAIN)).eval()
        x = torch.randn(2, 3, 16, 16)
        (_, skip), *_ = network.named_blocks()
        skip.keep = False
        assert isinstance(network, FirstUpload)
        assert torch.equal(network(x), network.classifier(x.flatten(1)))


def test_mnist_has_one_channel():
    network = build_network("paper8", NetworkOptions(1, 10, 28, width=0.05))
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)

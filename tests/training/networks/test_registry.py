from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from tests.training.networks.samples import PLAIN, options, randomise
from training.networks.blocks import ConvBlock
from training.networks.network import NetworkOptions
from training.networks.registry import (
    NETWORKS,
    build_network,
    count_macs,
    describe_network,
    find_network,
)
from training.networks.scale_options import ScaleOptions

# He et al. 2015 table 6, Zagoruyko and Komodakis 2016 tables 4 and 5, Xie et al. 2016 table 7, in
# millions as printed; Xie et al. print 68.1 for what is 68.155.
PUBLISHED_MILLIONS = {
    "resnet20": (0.27, 0.005),
    "resnet32": (0.46, 0.005),
    "resnet44": (0.66, 0.005),
    "resnet56": (0.85, 0.005),
    "resnet110": (1.7, 0.05),
    "wrn-16-8": (11.0, 0.05),
    "wrn-28-10": (36.5, 0.05),
    "wrn-40-4": (8.9, 0.05),
    "resnext29-8x64d": (34.4, 0.05),
    "resnext29-16x64d": (68.1, 0.06),
}
# torchvision's counts, and that of its resnext50_32x4d.
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50-32x4d": 25_028_904,
    "resnet18-cifar": 11_173_962,  # kuangliu's ResNet18, which everyone trains on CIFAR-10
    "resnet34-cifar": 21_282_122,
    "resnet50-cifar": 23_520_842,
    "resnet101-cifar": 42_512_970,
    "resnet152-cifar": 58_156_618,
}
# torchvision's GMACs at 224 px; the AdaResNet networks' MMACs at 32 px.
PUBLISHED_MACS = {
    "resnet18": (1.81e9, 0.005e9),
    "resnet34": (3.66e9, 0.005e9),
    "resnet50": (4.09e9, 0.005e9),
    "resnet101": (7.80e9, 0.005e9),
    "resnet152": (11.51e9, 0.005e9),
    "resnext50-32x4d": (4.23e9, 0.005e9),
    "paper8": (17.4e6, 0.05e6),
    "keras-resnet50": (78.7e6, 0.05e6),
    "resnet20": (40.55e6, 0.01e6),
    "wrn-28-10": (5.24e9, 0.01e9),
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED_MILLIONS.items())
def test_published_parameter_counts(name, published):
    millions, rounding = published
    parameters = describe_network(name)["parameters"]
    assert int(parameters) / 1e6 == pytest.approx(millions, abs=rounding)


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_exact_parameter_counts(name, published):
    assert describe_network(name)["parameters"] == published


def test_keras_counts_statistics_as_parameters():
    def conv_and_norm(kernel_px: int, channels_in: int, channels: int) -> int:
        return kernel_px**2 * channels_in * channels + channels + 4 * channels

    def counted(name: str) -> int:
        with torch.device("meta"):
            network = build_network(name, NetworkOptions(3, 10, 32, scales=PLAIN))
        counted = [p.numel() for p in network.parameters()]
        counted += [b.numel() for n, b in network.named_buffers() if n.endswith(("_mean", "_var"))]
        return sum(counted)

    # keras.applications.ResNet50(include_top=False), as its summary says, and Dense(10).
    assert counted("keras-resnet50") == 23_587_712 + (2048 + 1) * 10
    paper8 = conv_and_norm(7, 3, 64) + (512 + 1) * 10
    for channels_in, channels in ((64, 64), (64, 128), (128, 256), (256, 512)):
        paper8 += conv_and_norm(3, channels_in, channels) + 3 * conv_and_norm(3, channels, channels)
        paper8 += conv_and_norm(1, channels_in, channels)
    assert counted("paper8") == paper8
    assert paper8 / 1e6 == pytest.approx(11.20, abs=0.005)


def test_the_first_upload_is_the_baseline_and_two_dense_layers():
    baseline = int(describe_network("keras-resnet50")["parameters"]) - (2048 + 1) * 10
    dense = (2048 + 1) * 3072 + (3072 + 1) * 10
    assert describe_network("first-upload")["parameters"] == baseline + dense


@pytest.mark.parametrize(("name", "published"), PUBLISHED_MACS.items())
def test_published_macs(name, published):
    macs, rounding = published
    assert describe_network(name)["macs"] == pytest.approx(macs, abs=rounding)


def test_macs_of_layers_by_hand():
    network = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(6 * 16, 5)
    )
    assert network.training
    assert count_macs(network, 4, 8) == (3 * 3 * 2) * 6 * 16 + 6 * 16 * 5
    assert network.training
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_name_counts_the_layers(name):
    network = build_network(name, options())
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules())
    blocks = [block for _, block in network.named_blocks() if isinstance(block, ConvBlock)]
    layers -= sum(block.shortcut_kind == "projection" for block in blocks)
    assert describe_network(name)["blocks"] == len(network.named_blocks())
    if name == "paper8":
        assert (len(blocks), layers) == (8, 18)
    elif name == "first-upload":
        assert (len(blocks), layers) == (0, 53 + 2)  # four of the 53 are the body's projections
    elif name == "keras-resnet50":
        assert layers == 50
    elif name.startswith("wrn"):
        # Wide ResNets count the projection of each stage, and not the classifier.
        assert layers + 3 - 1 == int(name.split("-")[1])
    else:
        digits = name.removeprefix("resnet").removeprefix("resnext").removeprefix("fast")
        assert layers == int(digits.split("-")[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    network = build_network(
        name, options(ScaleOptions("block", "both"), channels=1, classes=4, width=0.1)
    )
    logits = network(torch.randn(4, 1, 16, 16))
    assert logits.shape == (4, 4)
    logits.logsumexp(dim=1).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
    for _, block in network.named_blocks():
        for scale in (block.shortcut_scale, block.branch_scale):
            assert scale is not None
            assert scale.raw.requires_grad


@pytest.mark.parametrize("name", NETWORKS)
def test_images_do_not_see_each_other_and_batches_have_any_size(name):
    network = build_network(name, options(ScaleOptions("channel", "both", "normal", 1.0)))
    randomise(network, 3)
    network.eval()
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        together, alone = network(x), torch.cat([network(image[None]) for image in x])
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-4)
    assert float((together[0] - together[1]).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("name", "padding"),
    list(itertools.product(["resnet20", "resnet18-cifar", "paper8"], [True, False])),
)
def test_padding_has_no_parameters(name, padding):
    network = build_network(name, options(padding=padding))
    kinds = {block.shortcut_kind for _, block in network.named_blocks()}
    assert kinds == ({"identity"} if padding else {"identity", "projection"})


def test_the_width_multiplies_channels():
    def channels(name: str, width: float) -> list[int]:
        network = build_network(name, options(width=width))
        return [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]

    assert max(channels("resnet20", 0.5)) == 32
    assert min(channels("resnet20", 1e-6)) == 1  # never none
    assert max(channels("wrn-16-4", 0.25)) == 64
    assert max(channels("resnext29-8x64d", 0.125)) == 8 * 8 * 4


def test_zero_gamma_begins_with_the_shortcuts_alone():
    for name in ("resnet20", "resnet50", "wrn-16-4", "paper8", "keras-resnet50", "fast8"):
        network = build_network(name, options(zero_gamma=True))
        x = torch.randn(4, 3, 16, 16)
        heard: list[bool] = []

        def listen(
            block: nn.Module,
            inputs: tuple[torch.Tensor, ...],
            output: torch.Tensor,
            heard: list[bool] = heard,
        ) -> None:
            assert isinstance(block, ConvBlock)
            branch, _ = block.terms(inputs[0])
            heard.append(branch is not None and not branch.any())

        for _, block in network.named_blocks():
            block.register_forward_hook(listen)
        network(x)
        assert heard, name
        assert all(heard), name


def test_what_can_not_be_built_is_said():
    with pytest.raises(ValueError, match="resnet20"):
        build_network("resnet21", options())
    for name in ("wrn-11-4", "wrn-4-4", "wrn-16-0"):
        with pytest.raises(ValueError, match="6n"):
            build_network(name, options())
    with pytest.raises(ValueError, match="--shortcut padding"):
        build_network("wrn-16-4", options(padding=True))
    with pytest.raises(ValueError, match="16 px"):
        build_network("fast8", options(image_px=15))
    with pytest.raises(ValueError, match="rezero"):
        build_network("first-upload", options(zero_gamma=True))
    for name in ("resnext29-0x64d", "resnext29-8x0d"):
        with pytest.raises(ValueError, match=f"there is no {name}"):
            build_network(name, options())


def test_families_have_more_members_than_the_list():
    assert find_network("wrn-22-2").source == NETWORKS["wrn-28-10"].source
    network = build_network("resnext29-4x32d", options(width=0.125))
    groups = {m.groups for m in network.modules() if isinstance(m, nn.Conv2d)}
    assert groups == {1, 4}
    assert build_network("wrn-10-1", options(width=1))(torch.zeros(1, 3, 8, 8)).shape == (1, 3)

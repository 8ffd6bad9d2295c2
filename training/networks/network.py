"""The network that every family builds: steps from pixels to features, a pool, a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from training.networks.blocks import (
    PaddedShortcut,
    PostActivationBlock,
    PreActivationBlock,
    ResidualBlock,
)
from training.networks.layers import PYTORCH, ConvRelu, ConvUnit, LayerStyle, MaxPool, NormRelu
from training.networks.scale_options import ScaleOptions
from training.networks.shortcut import Scale, ScaleFactory


@dataclass(frozen=True)
class NetworkOptions:
    """What a registered network is built from.

    Attributes:
        channels: Channels of the input, 1 or 3.
        classes: Number of classes.
        image_px: Height and width of the input; some networks depend on it.
        width: Multiple of the published channel counts.
        scales: The learned weights of the joins.
        shortcut: Where the shape changes, a projection (He et al.'s option B) or padding (A).
        zero_gamma: Every branch begins at zero by its last batch norm (arXiv 1706.02677 section
            5.1), or by its last convolution where no batch norm follows.
    """

    channels: int
    classes: int
    image_px: int = 32
    width: float = 1.0
    scales: ScaleOptions = field(default_factory=ScaleOptions)
    shortcut: Literal["projection", "padding"] = "projection"
    zero_gamma: bool = False

    def widened(self, channels: int) -> int:
        """A published number of channels times ``width``, at least one."""
        return max(1, round(channels * self.width))


class ResidualNetwork(nn.Module):
    """Steps in order, global average pool, linear classifier.

    Attributes:
        body: ``ConvRelu``, ``MaxPool``, residual blocks and ``NormRelu`` by name, in order.
    """

    def __init__(self, body: dict[str, nn.Module], features: int, classes: int) -> None:
        """Join the parts; ``features`` is the number of channels that the body ends with."""
        super().__init__()
        self.body = nn.ModuleDict(body)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pixels float [N, C, H, W] to logits float [N, classes]."""
        for step in self.body.values():
            x = step(x)
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits

    def named_blocks(self) -> list[tuple[str, ResidualBlock]]:
        """Each residual block with its name, from input to output."""
        return [(n, step) for n, step in self.body.items() if isinstance(step, ResidualBlock)]


class Body:
    """Collects steps, and knows what each hands to the next."""

    def __init__(self, options: NetworkOptions, style: LayerStyle = PYTORCH) -> None:
        """Begin with an image."""
        self.steps: dict[str, nn.Module] = {}
        self.options, self.style = options, style
        self.channels, self.size_px = options.channels, options.image_px
        self._scales = ScaleFactory(options.scales)

    def conv_relu(
        self,
        name: str,
        channels: int,
        kernel_px: int,
        stride: int = 1,
        *,
        pool: MaxPool | None = None,
        pads: tuple[int, int] | None = None,
    ) -> None:
        """Add a convolution unit with its ReLU; a pool stands before the batch norm."""
        unit = ConvUnit(
            self.channels, channels, kernel_px, stride, pool=pool, pads=pads, style=self.style
        )
        self._add_unit(name, unit)

    def add_stem(self, unit: ConvUnit) -> None:
        """Add a stem of the caller's choice with its ReLU."""
        self._add_unit("stem", unit)

    def conv(self, name: str, channels: int, kernel_px: int) -> None:
        """Add a convolution alone, for a network whose blocks begin with their own batch norm."""
        unit = ConvUnit(self.channels, channels, kernel_px, normed=False, style=self.style)
        self._add(name, unit, channels)

    def max_pool(self, name: str, kernel_px: int, stride: int, pads: tuple[int, int]) -> None:
        """Add a max pool."""
        pool = MaxPool(kernel_px, stride, pads)
        self._add(name, pool, self.channels)
        self._pooled(pool)

    def post_activation(
        self, stage: int, block: int, branch: Sequence[ConvUnit], channels: int, stride: int
    ) -> None:
        """Add ``y = relu(v T(x) + w S(x))``; a stage's first block may change the shape."""
        shortcut: ConvUnit | PaddedShortcut | None = None
        if stride != 1 or channels != self.channels:
            shortcut = self.projection(channels, stride)
        self.post_activation_with(stage, block, branch, channels, shortcut, stride)

    def post_activation_with(
        self,
        stage: int,
        block: int,
        branch: Sequence[ConvUnit],
        channels: int,
        shortcut: ConvUnit | PaddedShortcut | None,
        stride: int = 1,
    ) -> None:
        """Add a block with a shortcut of the caller's choice."""
        kind = "projection" if isinstance(shortcut, ConvUnit) else "identity"
        made = PostActivationBlock(branch, shortcut, self._make_scales(kind, stage, channels))
        self._add(f"stage{stage}_block{block}", made, channels)
        self.size_px = -(-self.size_px // stride)

    def pre_activation(
        self, stage: int, block: int, branch: Sequence[ConvUnit], channels: int, stride: int
    ) -> None:
        """Add ``y = v T(relu(norm(x))) + w S(x)``.

        Raises:
            ValueError: The options want shortcuts without parameters.
        """
        if self.options.shortcut == "padding":
            raise ValueError("wide ResNets have projections: --shortcut padding is not for them")
        same = stride == 1 and channels == self.channels
        # Behind the pre-activation; its own batch norm would be one too many (1605.07146).
        shortcut = None if same else ConvUnit(self.channels, channels, 1, stride, normed=False)
        scales = self._make_scales("identity" if same else "projection", stage, channels)
        made = PreActivationBlock(self.channels, branch, shortcut, scales, self.style)
        self._add(f"stage{stage}_block{block}", made, channels)
        self.size_px = -(-self.size_px // stride)

    def projection(self, channels: int, stride: int) -> ConvUnit | PaddedShortcut:
        """The shortcut where the shape changes, as the options say."""
        if self.options.shortcut == "padding":
            return PaddedShortcut(self.channels, channels, stride)
        return ConvUnit(self.channels, channels, 1, stride, style=self.style)

    def norm_relu(self, name: str) -> None:
        """Add the activation behind the last pre-activation block."""
        self._add(name, NormRelu(self.channels, self.style), self.channels)

    def finish(self) -> ResidualNetwork:
        """Add the head and give every weight its first value."""
        network = ResidualNetwork(self.steps, self.channels, self.options.classes)
        initialise(network, zero_gamma=self.options.zero_gamma)
        return network

    def _make_scales(
        self, kind: str, stage: int, channels: int
    ) -> tuple[Scale | None, Scale | None]:
        return (
            self._scales.make("shortcut", kind, stage, channels),
            self._scales.make("branch", kind, stage, channels),
        )

    def _add_unit(self, name: str, unit: ConvUnit) -> None:
        self._add(name, ConvRelu(unit), unit.conv.out_channels)
        kernel_px, stride = unit.conv.kernel_size[0], unit.conv.stride[0]
        self.size_px = (self.size_px + sum(unit.pads) - kernel_px) // stride + 1
        if isinstance(unit.pool, MaxPool):
            self._pooled(unit.pool)

    def _add(self, name: str, step: nn.Module, channels: int) -> None:
        self.steps[name] = step
        self.channels = channels

    def _pooled(self, pool: MaxPool) -> None:
        padded_px = self.size_px + sum(pool.pads)
        self.size_px = (padded_px - pool.kernel_px) // pool.stride + 1


def initialise(network: ResidualNetwork, *, zero_gamma: bool) -> None:
    """He et al.'s first values (arXiv 1502.01852), fan out, and zero branches where asked."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if zero_gamma:
        for _, block in network.named_blocks():
            block.zero_branch()


def scale_values(blocks: Sequence[tuple[str, ResidualBlock]]) -> dict[str, list[float]]:
    """Every scale now, by ``<block>.shortcut`` and ``<block>.branch``: one value or one a channel.

    Blocks that share a scale each name it.
    """
    found = {}
    for name, block in blocks:
        for where, scale in (("shortcut", block.shortcut_scale), ("branch", block.branch_scale)):
            if scale is not None:
                found[f"{name}.{where}"] = scale.values()
    return found

"""CIFAR ResNets: 6n + 2 layers, three stages of n blocks.

Source: He et al. 2015 (arXiv 1512.03385) section 4.2, with projections (option B) where the shape
changes instead of zero padding, because the paper's learned weight needs something to scale.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from training.networks.blocks import BasicBlock, ConvBatchNorm
from training.networks.shortcut import ShortcutScale

STAGE_CHANNELS = (16, 32, 64)


@dataclass(frozen=True)
class NetworkOptions:
    """What a registered network is built from.

    Attributes:
        channels: Channels of the input, 1 or 3.
        classes: Number of classes.
        width: Multiple of the published channel counts.
        shortcut_init: First value of every shortcut scale.
        shortcut_learned: False keeps every scale at ``shortcut_init``.
    """

    channels: int
    classes: int
    width: int = 1
    shortcut_init: float = 1.0
    shortcut_learned: bool = True


class CifarResNet(nn.Module):
    """Stem, three stages, global average pool, linear classifier."""

    def __init__(self, blocks_per_stage: int, options: NetworkOptions) -> None:
        """Build 6 * ``blocks_per_stage`` + 2 layers."""
        super().__init__()
        channels = [count * options.width for count in STAGE_CHANNELS]
        self.stem = ConvBatchNorm(options.channels, channels[0], 3, 1)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.ModuleDict()
        channels_in = channels[0]
        for stage, channels_out in enumerate(channels, start=1):
            for block in range(1, blocks_per_stage + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                scale = ShortcutScale(options.shortcut_init, learned=options.shortcut_learned)
                name = f"stage{stage}_block{block}"
                self.blocks[name] = BasicBlock(channels_in, channels_out, stride, scale)
                channels_in = channels_out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels_in, options.classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pixels float [N, C, H, W] to logits float [N, classes]."""
        x = self.relu(self.stem(x))
        for block in self.blocks.values():
            x = block(x)
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits

    def named_blocks(self) -> list[tuple[str, BasicBlock]]:
        """Each block with its name, from input to output."""
        return [
            (name, block) for name, block in self.blocks.items() if isinstance(block, BasicBlock)
        ]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

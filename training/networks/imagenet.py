"""ResNet-18 to 152 and ResNeXt-50: four stages behind an ImageNet or a CIFAR stem.

Source: He et al. 2015 (arXiv 1512.03385) table 1, with the stride of a bottleneck in its 3 x 3
convolution (v1.5, as everyone trains it now); Xie et al. 2016 (arXiv 1611.05431) table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.networks.blocks import basic_branch, bottleneck_branch
from training.networks.network import Body, NetworkOptions, ResidualNetwork

STAGE_CHANNELS = (64, 128, 256, 512)
EXPANSION = 4


@dataclass(frozen=True)
class ImageNetResNet:
    """One of the family.

    Attributes:
        blocks: Number of blocks in each stage.
        stem: ``imagenet`` is 7 x 7 with stride 2 and a max pool, for images from about 64 px;
            ``cifar`` is 3 x 3 with stride 1, for smaller ones.
        bottleneck: Blocks of three convolutions; otherwise of two.
        groups: Groups of the 3 x 3 convolution.
        group_channels: Channels of a group in the first stage; groups * this are 64 in a ResNet.
    """

    blocks: Sequence[int]
    stem: Literal["imagenet", "cifar"]
    bottleneck: bool
    groups: int = 1
    group_channels: int = 64

    def __call__(self, options: NetworkOptions) -> ResidualNetwork:
        """Build it."""
        body = Body(options)
        if self.stem == "imagenet":
            body.conv_relu("stem", options.widened(64), 7, 2)
            body.max_pool("stem_pool", 3, 2, (1, 1))
        else:
            body.conv_relu("stem", options.widened(64), 3)
        for stage, (published, count) in enumerate(
            zip(STAGE_CHANNELS, self.blocks, strict=True), start=1
        ):
            for block in range(1, count + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                self._block(body, stage, block, published, stride)
        return body.finish()

    def _block(self, body: Body, stage: int, block: int, published: int, stride: int) -> None:
        options = body.options
        if not self.bottleneck:
            channels = options.widened(published)
            branch = basic_branch(body.channels, channels, stride)
        else:
            per_group = options.widened(self.group_channels * published // STAGE_CHANNELS[0])
            channels = options.widened(published) * EXPANSION
            branch = bottleneck_branch(
                body.channels, per_group * self.groups, channels, stride, groups=self.groups
            )
        body.post_activation(stage, block, branch, channels, stride)

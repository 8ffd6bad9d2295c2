"""ResNeXt-29 for CIFAR: three stages of three bottleneck blocks with grouped convolutions.

Source: Xie et al. 2016 (arXiv 1611.05431) section 5.2. ResNeXt-50 is in imagenet.py.
"""

from __future__ import annotations

from training.networks.blocks import bottleneck_branch
from training.networks.network import Body, NetworkOptions, ResidualNetwork

STAGE_CHANNELS = (64, 128, 256)
EXPANSION = 4
_BLOCKS = 3


def resnext29(groups: int, group_channels: int, options: NetworkOptions) -> ResidualNetwork:
    """Build ResNeXt-29, ``groups`` x ``group_channels`` d: cardinality and width of a group.

    Raises:
        ValueError: One of the two is 0.
    """
    if groups < 1 or group_channels < 1:
        raise ValueError(
            f"there is no resnext29-{groups}x{group_channels}d: it takes one group of one channel"
            " or more"
        )
    body = Body(options)
    body.conv_relu("stem", options.widened(64), 3)
    for stage, published in enumerate(STAGE_CHANNELS, start=1):
        inner = groups * options.widened(group_channels * published // STAGE_CHANNELS[0])
        channels = options.widened(published) * EXPANSION
        for block in range(1, _BLOCKS + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            branch = bottleneck_branch(body.channels, inner, channels, stride, groups=groups)
            body.post_activation(stage, block, branch, channels, stride)
    return body.finish()

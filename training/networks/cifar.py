"""CIFAR ResNets: 6n + 2 layers, three stages of n basic blocks.

Source: He et al. 2015 (arXiv 1512.03385) section 4.2. By default with projections (option B) where
the shape changes, because the paper's weight needs something to scale; ``--shortcut padding`` gives
the published networks, whose shortcuts have no parameters (option A).
"""

from __future__ import annotations

from training.networks.blocks import basic_branch
from training.networks.network import Body, NetworkOptions, ResidualNetwork

STAGE_CHANNELS = (16, 32, 64)


def cifar_resnet(blocks_per_stage: int, options: NetworkOptions) -> ResidualNetwork:
    """Build a network of 6 * ``blocks_per_stage`` + 2 layers."""
    body = Body(options)
    body.conv_relu("stem", options.widened(STAGE_CHANNELS[0]), 3)
    for stage, published in enumerate(STAGE_CHANNELS, start=1):
        channels = options.widened(published)
        for block in range(1, blocks_per_stage + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            branch = basic_branch(body.channels, channels, stride)
            body.post_activation(stage, block, branch, channels, stride)
    return body.finish()

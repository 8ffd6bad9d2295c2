"""The networks that the AdaResNet author published.

Eight basic blocks in four stages, every stage with a projection and stride 2 in its first block, so
that a 32 px image shrinks 32 - 16 - 8 - 4 - 2 - 1 - 1; and the ResNet-50 of ``keras.applications``
without its top, the baseline. Source: AdaResNet (arXiv 2408.09958) and the author's scripts.
"""

from __future__ import annotations

from training.networks.blocks import bottleneck_branch
from training.networks.keras import KERAS, KERAS_RESNET50, keras_initialise
from training.networks.layers import ConvUnit, same_pads
from training.networks.network import Body, NetworkOptions, ResidualNetwork

STAGE_CHANNELS = (64, 128, 256, 512)
RESNET50_BLOCKS = (3, 4, 6, 3)
EXPANSION = 4


def paper8(options: NetworkOptions) -> ResidualNetwork:
    """Build the published 8-block network."""
    body = Body(options, KERAS)
    stem_pads = same_pads(body.size_px, 7, 2)
    body.conv_relu("stem", options.widened(64), 7, 2, pads=stem_pads)
    body.max_pool("stem_pool", 3, 2, same_pads(body.size_px, 3, 2))
    for stage, published in enumerate(STAGE_CHANNELS, start=1):
        channels = options.widened(published)
        for block in (1, 2):
            stride = 2 if block == 1 else 1
            branch = [
                ConvUnit(
                    body.channels,
                    channels,
                    3,
                    stride,
                    pads=same_pads(body.size_px, 3, stride),
                    style=KERAS,
                ),
                ConvUnit(channels, channels, 3, style=KERAS),
            ]
            body.post_activation(stage, block, branch, channels, stride)
    return _finish(body)


def keras_resnet50(options: NetworkOptions) -> ResidualNetwork:
    """Build the published baseline: bottlenecks that stride in their first convolution."""
    return _finish(keras_resnet50_body(options))


def keras_resnet50_body(options: NetworkOptions) -> Body:
    """Everything of ``keras.applications.ResNet50`` up to its pool."""
    body = Body(options, KERAS_RESNET50)
    body.conv_relu("stem", options.widened(64), 7, 2, pads=(3, 3))
    body.max_pool("stem_pool", 3, 2, (1, 1))
    for stage, (published, count) in enumerate(
        zip(STAGE_CHANNELS, RESNET50_BLOCKS, strict=True), start=1
    ):
        inner = options.widened(published)
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            branch = bottleneck_branch(
                body.channels,
                inner,
                inner * EXPANSION,
                stride,
                stride_first=True,
                style=KERAS_RESNET50,
            )
            body.post_activation(stage, block, branch, inner * EXPANSION, stride)
    return body


def _finish(body: Body) -> ResidualNetwork:
    network = body.finish()
    keras_initialise(network)
    if body.options.zero_gamma:
        for _, block in network.named_blocks():
            block.zero_branch()
    return network

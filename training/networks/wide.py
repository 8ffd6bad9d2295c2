"""Wide ResNets, WRN-d-k: pre-activation basic blocks with k times the channels.

Source: Zagoruyko and Komodakis 2016 (arXiv 1605.07146) table 1, without dropout.
"""

from __future__ import annotations

from training.networks.blocks import basic_branch
from training.networks.network import Body, NetworkOptions, ResidualNetwork

STAGE_CHANNELS = (16, 32, 64)


def wide_resnet(depth: int, widening: int, options: NetworkOptions) -> ResidualNetwork:
    """Build WRN-``depth``-``widening``.

    Raises:
        ValueError: The depth is not 6n + 4.
    """
    if depth < 10 or (depth - 4) % 6 or widening < 1:
        raise ValueError(
            f"there is no wrn-{depth}-{widening}: the depth is 6n + 4 (10, 16, 22, 28, 34, 40), the"
            " widening factor 1 or more"
        )
    body = Body(options)
    body.conv("stem", options.widened(STAGE_CHANNELS[0]), 3)
    for stage, published in enumerate(STAGE_CHANNELS, start=1):
        channels = options.widened(published * widening)
        for block in range(1, (depth - 4) // 6 + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            branch = basic_branch(body.channels, channels, stride, last_normed=False)
            body.pre_activation(stage, block, branch, channels, stride)
    body.norm_relu("final")
    return body.finish()

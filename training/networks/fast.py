"""A network for fast training: few layers, wide, most of its work where maps are small.

Three stages of a convolution with a max pool and a residual block of one convolution each, behind a
stem of 2 x 2 filters that whiten image patches and are not trained. Source: Jordan 2024 (airbench,
arXiv 2404.00498), with residual blocks and ReLU; the pool before batch norm is its idea as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.layers import ConvUnit, MaxPool
from training.networks.network import Body, NetworkOptions, ResidualNetwork

STAGE_CHANNELS = (64, 256, 256)
MIN_PX = 16
_PATCH_PX = 2
_VARIANCE_FLOOR = 5e-4  # airbench's: what is nearly constant in patches is not blown up


class WhiteningStem(ConvUnit):
    """2 x 2 filters along the principal directions of image patches; only their bias is trained."""

    def __init__(self, channels: int) -> None:
        """A filter and its negative for each direction, since a ReLU follows."""
        filters = 2 * channels * _PATCH_PX**2
        super().__init__(channels, filters, _PATCH_PX, normed=False, bias=True, pads=(0, 0))
        self.conv.weight.requires_grad_(False)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the filters.

        Args:
            images: Some thousands of normalised training images, float32 [N, C, H, W].
        """
        patches = F.unfold(images, _PATCH_PX).transpose(1, 2).flatten(0, 1)
        covariance = patches.T @ patches / len(patches)
        variances, directions = torch.linalg.eigh(covariance.double())
        filters = (directions / torch.sqrt(variances + _VARIANCE_FLOOR)).T.float()
        filters = filters.reshape(-1, images.shape[1], _PATCH_PX, _PATCH_PX)
        self.conv.weight.copy_(torch.cat([filters, -filters]))


def fast8(options: NetworkOptions) -> ResidualNetwork:
    """Build the network: 8 layers with the classifier.

    Raises:
        ValueError: The images are too small for its pools.
    """
    if options.image_px < MIN_PX:
        raise ValueError(f"fast8 needs images of {MIN_PX} px or more; these are {options.image_px}")
    body = Body(options)
    body.add_stem(WhiteningStem(options.channels))
    for stage, published in enumerate(STAGE_CHANNELS, start=1):
        channels = options.widened(published)
        body.conv_relu(f"stage{stage}_down", channels, 3, pool=MaxPool(2, 2, (0, 0)))
        body.post_activation(stage, 1, [ConvUnit(channels, channels, 3)], channels, 1)
    network = body.finish()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            # Begin by passing on what comes in (arXiv 1706.00388), the rest as usual.
            nn.init.dirac_(module.weight.data[: module.in_channels])
    return network

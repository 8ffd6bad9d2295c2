"""The author's first upload: a ResNet-50 that adds a learned picture to the picture.

``d = relu(Dense(features))``, ``y = image + beta * d``, and a linear classifier on ``y``. It is
what the paper's Algorithms 1 and 2 describe, and has one learned weight in all, on the branch.
Source: the first version of the author's repository, of August 2024.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.blocks import ResidualBlock
from training.networks.keras import keras_initialise
from training.networks.network import NetworkOptions
from training.networks.paper import keras_resnet50_body
from training.networks.scale_options import ScaleOptions
from training.networks.shortcut import Scale, ScaleFactory

_PLAIN = ScaleOptions(granularity="fixed")


class PixelSkip(ResidualBlock):
    """``y = v * d(x) + w * x`` where d is a whole ResNet-50 that ends in pixels.

    Attributes:
        body: From the image to features, by name.
        dense: From pooled features to one value a pixel and channel.
    """

    def __init__(self, options: NetworkOptions, scales: tuple[Scale | None, Scale | None]) -> None:
        """Build the branch; its own shortcuts are plain."""
        super().__init__("identity", scales)
        body = keras_resnet50_body(replace(options, scales=_PLAIN))
        self.body = nn.ModuleDict(body.steps)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.shape = (options.channels, options.image_px, options.image_px)
        self.dense = nn.Linear(body.channels, options.channels * options.image_px**2)

    def branch_modules(self) -> list[nn.Module]:
        """The modules of d."""
        return [self.body, self.dense]

    def zero_branch(self) -> None:
        """Refuse: behind a ReLU, a branch of zeros would never get a gradient.

        Raises:
            ValueError: Always.
        """
        raise ValueError("first-upload has no batch norm to set to zero; take --preset rezero")

    def terms(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """``v * d(x)`` and ``w * x``."""
        shortcut = self._scaled_shortcut(x)
        if self.keep is False:
            return None, shortcut
        for step in self.body.values():
            x = step(x)
        drawn = F.relu(self.dense(self.flatten(self.pool(x))))
        return self._scaled_branch(drawn.view(-1, *self.shape)), shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C, H, W] to the same shape."""
        drawn, shortcut = self.terms(x)
        return shortcut if drawn is None else shortcut + drawn


class FirstUpload(nn.Module):
    """A pixel skip and a linear classifier on its pixels."""

    def __init__(self, options: NetworkOptions) -> None:
        """Build it for images of one size."""
        super().__init__()
        factory = ScaleFactory(options.scales)
        scales = (
            factory.make("shortcut", "identity", 1, options.channels),
            factory.make("branch", "identity", 1, options.channels),
        )
        self.pixel_skip = PixelSkip(options, scales)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(options.channels * options.image_px**2, options.classes)
        keras_initialise(self)
        if options.zero_gamma:
            self.pixel_skip.zero_branch()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pixels float [N, C, H, W] to logits float [N, classes]."""
        logits: Tensor = self.classifier(self.flatten(self.pixel_skip(x)))
        return logits

    def named_blocks(self) -> list[tuple[str, ResidualBlock]]:
        """The one join with a scale."""
        return [("pixel_skip", self.pixel_skip)]

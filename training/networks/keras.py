"""What the paper's Keras code does differently from PyTorch, in layers and first values.

Source: Keras 3 documentation of Conv2D, Dense, BatchNormalization and ``keras.applications``;
docs/reproduction of the facts in the networks' own files.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from training.networks.layers import LayerStyle

KERAS = LayerStyle(
    conv_bias=True,
    norm_eps=1e-3,
    norm_momentum=0.01,
    biased_variance=True,
    tensorflow_padding=True,
)
KERAS_RESNET50 = replace(KERAS, norm_eps=1.001e-5)


@torch.no_grad()
def keras_initialise(network: nn.Module) -> None:
    """Glorot uniform weights and zero biases, for convolutions and dense layers alike."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

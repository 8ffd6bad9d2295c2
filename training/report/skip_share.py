"""How much of a block's output is skip and how much is branch, whatever the gauge of its weights.

A learned scale w says little by itself. In a network with batch norm and post-activation blocks a
positive w on an identity shortcut can be divided out: let the activations of every block's input
be carried as ``x / c_in`` and of its output as ``y / c_out`` with ``c_out = w * c_in``; with the
branch's last batch norm divided by ``c_out`` and the classifier multiplied by the last ``c``, a
plain ResNet (w = 1) computes the same. Only what no such choice of c changes can be compared
between blocks and runs:

- the skip share, ``rms(w S(x)) / (rms(w S(x)) + rms(v T(x)))``, of any block;
- for identity shortcuts the gauge-fixed weight, ``sign(w) * rms(w S(x)) / rms(y)``, which is
  ``w / (rms(y) / rms(x))``: w over the block's rms-gain. It is the value that w has in the one
  gauge where every block's input and output have an rms of 1. With one scale a channel it is one
  value a channel, each over its own channel's rms.

A projection shortcut has no gauge-fixed weight: its own batch norm or kernel absorbs w with its
sign. ``rms`` is over all images, pixels and channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from training.networks.blocks import ResidualBlock
from training.networks.registry import AdaptiveNetwork


class BlockShare(BaseModel):
    """One block on data.

    Attributes:
        block: The block's name.
        kind: Of its shortcut.
        skip_share: In [0, 1]; None where both terms are zero everywhere.
        gauge_fixed: For an identity shortcut one value, or one a channel, channels that are zero
            everywhere left out; empty for a projection.
    """

    model_config = ConfigDict(frozen=True)

    block: str
    kind: Literal["identity", "projection"]
    skip_share: float | None
    gauge_fixed: list[float]


class _Signals:
    """Sums of squares a channel of what passes through one block, float64 [C]."""

    def __init__(self, block: ResidualBlock) -> None:
        self.block = block
        self.skip, self.branch, self.output = (torch.zeros((), dtype=torch.float64),) * 3

    def before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        branch, skip = self.block.terms(inputs[0])
        self.skip = self.skip + _squares(skip)
        if branch is not None:
            self.branch = self.branch + _squares(branch)

    def after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.output = self.output + _squares(output)

    def share(self, name: str) -> BlockShare:
        skip, branch = self.skip.sum().sqrt().item(), self.branch.sum().sqrt().item()
        identity = self.block.shortcut_kind == "identity"
        return BlockShare(
            block=name,
            kind=self.block.shortcut_kind,
            skip_share=skip / (skip + branch) if skip + branch > 0 else None,
            gauge_fixed=self._gauge_fixed() if identity else [],
        )

    def _gauge_fixed(self) -> list[float]:
        scale = self.block.shortcut_scale
        values = torch.tensor([1.0] if scale is None else scale.values(), dtype=torch.float64)
        skip, output = self.skip, self.output
        if len(values) == 1:
            skip, output = skip.sum(0, keepdim=True), output.sum(0, keepdim=True)
        alive = output > 0
        found: list[float] = (values.sign() * (skip / output).sqrt())[alive].tolist()
        return found


@torch.no_grad()
def measure_shares(network: AdaptiveNetwork, batches: Iterable[Tensor]) -> list[BlockShare]:
    """Run batches through a network in evaluation mode and measure every block.

    Args:
        network: Left as it was.
        batches: Normalised pixels, float [N, C, H, W] each, on the network's device.

    Returns:
        One entry a block, from input to output.
    """
    signals = {name: _Signals(block) for name, block in network.named_blocks()}
    was_training = network.training
    network.eval()
    with _attached(signals.values()):
        for batch in batches:
            network(batch)
    network.train(was_training)
    return [found.share(name) for name, found in signals.items()]


@contextlib.contextmanager
def _attached(signals: Iterable[_Signals]) -> Iterator[None]:
    hooks = []
    for found in signals:
        hooks.append(found.block.register_forward_pre_hook(found.before))
        hooks.append(found.block.register_forward_hook(found.after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _squares(x: Tensor) -> Tensor:
    return x.square().sum(dim=(0, 2, 3), dtype=torch.float64).cpu()

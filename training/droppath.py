"""Drop residual branches at random while training: stochastic depth and residual droppath.

Neither knows a network: both turn the ``keep`` switch of its blocks. What is dropped in a step
follows from the seed and the step's number alone, so a resumed run drops the same, and so does
every process of a distributed one.

Stochastic depth: Huang et al. 2016 (arXiv 1603.09382). Residual droppath: Park 2024 (arXiv
2411.09475), of which only the abstract was at hand; docs/training.md lists what was chosen where it
leaves a choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from training.config import TrainConfig
from training.networks.registry import AdaptiveNetwork
from training.randomness import generator_of


class Droppath:
    """The method of one run."""

    def __init__(self, network: AdaptiveNetwork, config: TrainConfig) -> None:
        """Take the blocks in order."""
        self._config = config
        self._network = network
        self._blocks = [block for _, block in network.named_blocks()]
        self._trained = [p for p in network.parameters() if p.requires_grad]

    @property
    def rates(self) -> list[float]:
        """Probability of being dropped, block by block."""
        last, count = self._config.drop_rate, len(self._blocks)
        if self._config.droppath == "none":
            return [0.0] * count
        if self._config.drop_schedule == "uniform":
            return [last] * count
        return [last * (index + 1) / count for index in range(count)]

    def is_second(self, step: int) -> bool:
        """The step is residual droppath's second kind of iteration."""
        ratio = self._config.residual_ratio
        return self._config.droppath == "residual" and step % (ratio + 1) == ratio

    def dropped(self, step: int) -> list[int]:
        """Blocks that a step of the first kind drops: one draw a batch."""
        draws = torch.rand(len(self._blocks), generator=generator_of(self._config.seed, 1, step))
        return [i for i, rate in enumerate(self.rates) if float(draws[i]) < rate]

    @contextlib.contextmanager
    def iteration(self, step: int, images: int) -> Iterator[None]:
        """Run one training step with blocks dropped, or with parameters frozen.

        Args:
            step: Number of the step since the run began.
            images: Images that one forward pass takes.
        """
        if self._config.droppath == "none":
            yield
            return
        frozen_norms: list[nn.Module] = []
        if self.is_second(step):
            frozen_norms = self._freeze(step)
        elif self._config.drop_per == "sample":
            self._drop_samples(step, images)
        else:
            self._drop_batch(self.dropped(step))
        try:
            yield
        finally:
            for block in self._blocks:
                block.keep = True
            for parameter in self._trained:
                parameter.requires_grad_(True)
            for norm in frozen_norms:
                norm.train()

    def _drop_batch(self, dropped: Sequence[int]) -> None:
        for index, (block, rate) in enumerate(zip(self._blocks, self.rates, strict=True)):
            if index in dropped:
                block.keep = False
            elif self._config.rescales and rate > 0:
                block.keep = torch.full((1, 1, 1, 1), 1 / (1 - rate), device=self._device)

    def _drop_samples(self, step: int, images: int) -> None:
        generator = generator_of(self._config.seed, 1, step)
        for block, rate in zip(self._blocks, self.rates, strict=True):
            kept = (torch.rand(images, 1, 1, 1, generator=generator) >= rate).float()
            keep = kept / (1 - rate) if self._config.rescales else kept
            block.keep = keep.to(self._device, non_blocking=True)

    def _freeze(self, step: int) -> list[nn.Module]:
        """Let only the branches learn that the step before dropped; returns norms set to eval."""
        dropped = self.dropped(step - 1)
        if not dropped or self._config.residual_trains == "all":
            return []
        if self._config.residual_trains == "random":
            generator = generator_of(self._config.seed, 2, step)
            order = torch.randperm(len(self._blocks), generator=generator)
            dropped = order[: len(dropped)].tolist()
        free: list[nn.Module] = [m for i in dropped for m in self._blocks[i].branch_modules()]
        if self._config.residual_head:
            free.append(self._network.classifier)
        kept = {id(p) for module in free for p in module.parameters()}
        for parameter in self._trained:
            parameter.requires_grad_(id(parameter) in kept)
        if self._config.residual_norm == "batch":
            return []
        training = {id(m) for module in free for m in module.modules()}
        norms: list[nn.Module] = [
            module
            for module in self._network.modules()
            if isinstance(module, nn.BatchNorm2d) and id(module) not in training
        ]
        for norm in norms:
            norm.eval()
        return norms

    @property
    def _device(self) -> torch.device:
        return self._trained[0].device

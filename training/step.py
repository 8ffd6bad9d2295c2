"""One training step: views of a batch, forward, backward, optimizer, averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from training.averaging import AveragedWeights
from training.config import TrainConfig
from training.data.augment import (
    Normalize,
    cut_out,
    mirrored,
    random_resized_crop,
    shift_and_flip,
    to_channels,
)
from training.data.mixing import mix
from training.droppath import Droppath
from training.networks.registry import AdaptiveNetwork
from training.optim import set_rates
from training.processes import Processes

_CROP_RATIO = (3 / 4, 4 / 3)  # width over height of a random resized crop, as is usual
_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Trainer:
    """The live objects of a run, handed from step to step.

    Attributes:
        config: The run.
        network: The network itself.
        model: What is called in training: the network, compiled or distributed where asked.
        normalize: The run's normalisation.
        optimizer: Over the network's parameters.
        droppath: What is dropped or frozen in a step.
        averaged: The averaged weights, or None.
        scaler: Scales the loss for float16; does nothing otherwise.
        processes: This process among the others.
    """

    config: TrainConfig
    network: AdaptiveNetwork
    model: nn.Module
    normalize: Normalize
    optimizer: optim.Optimizer
    droppath: Droppath
    averaged: AveragedWeights | None
    scaler: torch.amp.GradScaler
    processes: Processes

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.processes.device

    @property
    def evaluated(self) -> AdaptiveNetwork:
        """The network to evaluate and to export: the average where there is one."""
        if self.averaged is None:
            return self.network
        return cast(AdaptiveNetwork, self.averaged.network)


def training_views(
    pixels: Tensor, indices: Tensor, epoch: int, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """Crop, shift, mirror and blank a batch at random.

    Args:
        pixels: uint8 [B, H, W, 3].
        indices: The images' positions in the training set, int64 [B].
        epoch: Epochs done before this one.
        config: The run.
        generator: Source of all randomness, on the CPU.

    Returns:
        uint8 [B, H, W, 3].
    """
    flipped = mirrored(indices, epoch, config.flip, config.seed, generator)
    if config.crop_scale < 1:
        pixels = random_resized_crop(pixels, (config.crop_scale, 1.0), _CROP_RATIO, generator)
    pixels = shift_and_flip(pixels, config.shift_px, flipped, generator)
    return cut_out(pixels, config.cutout_px, generator)


def train_step(
    trainer: Trainer,
    views: Tensor,
    labels: Tensor,
    step: int,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Take one optimizer step.

    Args:
        trainer: The run.
        views: This process's share of the batch, uint8 [B, H, W, 3].
        labels: int64 [B].
        step: Number of the step since the run began.
        steps: Steps of the whole run.
        generator: Source of randomness for mixup and cutmix, on the CPU.

    Returns:
        Summed loss, number of right answers and of images, float64 [3].
    """
    config, optimizer = trainer.config, trainer.optimizer
    set_rates(optimizer, step, steps, config)
    optimizer.zero_grad(set_to_none=True)
    totals = torch.zeros(3, dtype=torch.float64, device=trainer.device)
    parts = list(zip(views.chunk(config.accumulate), labels.chunk(config.accumulate), strict=True))
    for number, (part, answers) in enumerate(parts):
        with trainer.droppath.iteration(step, len(part)):
            share = len(part) / len(views)
            if number < len(parts) - 1:
                with trainer.processes.unsynchronised(trainer.model):
                    totals += _backward(trainer, part, answers, share, generator)
            else:
                totals += _backward(trainer, part, answers, share, generator)
    if config.clip_norm is not None:
        trainer.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(trainer.network.parameters(), config.clip_norm)
    trainer.scaler.step(optimizer)
    trainer.scaler.update()
    if trainer.averaged is not None:
        trainer.averaged.update(step)
    return totals


def _backward(
    trainer: Trainer, views: Tensor, labels: Tensor, share: float, generator: torch.Generator
) -> Tensor:
    """Forward and backward over a part of a batch; ``share`` is the part's size over the whole."""
    config = trainer.config
    x = trainer.normalize(to_channels(views, grey=trainer.normalize.mean.numel() == 1))
    if not config.channels_last:
        x = x.contiguous()
    x, partner, own = mix(x, config.mixup, config.cutmix, generator)
    kind = _TYPES.get(config.precision)
    with torch.autocast(trainer.device.type, kind, enabled=kind is not None):
        logits = trainer.model(x)
    logits = logits.float()
    loss = _cross_entropy(logits, labels, config)
    if config.mixup or config.cutmix:
        loss = own * loss + (1 - own) * _cross_entropy(logits, labels[partner], config)
    trainer.scaler.scale(loss.mean() * share).backward()  # type: ignore[no-untyped-call]
    right = (logits.argmax(dim=1) == labels).sum().double()
    images = right.new_full((), len(labels))  # made on the device: no copy to wait for
    return torch.stack([loss.detach().double().sum(), right, images])


def _cross_entropy(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """Loss of each image, float32 [B]."""
    return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing, reduction="none")

"""What a run looks at before it goes on or saves: a diverged run must not replace a good save."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.averaging import tensors_of
from training.checkpoint import checkpoint_path
from training.config import TrainConfig
from training.errors import TrainingError
from training.step import Trainer


def check_finite(totals: Tensor, epoch: int, config: TrainConfig) -> None:
    """Look at the summed loss, the first of ``totals``.

    Raises:
        TrainingError: It is not finite.
    """
    loss = float(totals[0])
    if not math.isfinite(loss):
        raise _diverged(f"the loss is {loss}", epoch, config)


def check_weights(trainer: Trainer, epoch: int) -> None:
    """Look at what is about to be saved: the loss only speaks of the weights a step before.

    Raises:
        TrainingError: It is not finite, or processes have come apart.
    """
    sums = {name: tensor.detach().double().sum() for name, tensor in tensors_of(trainer.network)}
    if not bool(torch.stack(list(sums.values())).isfinite().all()):
        raise _diverged("the weights are not finite", epoch, trainer.config)
    # Batch norm's statistics are each process's own; the main one's are used.
    trained = [sums[name] for name, _ in trainer.network.named_parameters()]
    if not trainer.processes.same(torch.stack(trained)):
        raise TrainingError(f"the processes' weights differ in epoch {epoch + 1}; nothing is saved")


def _diverged(what: str, epoch: int, config: TrainConfig) -> TrainingError:
    saved = checkpoint_path(config.out).is_file()
    return TrainingError(
        f"{what} in epoch {epoch + 1}: lower --learning-rate, or try --clip-norm."
        + (f" The last save is kept in {config.out}" if saved else "")
    )

"""Parameter groups, optimizer and learning-rate schedule."""

from __future__ import annotations

from torch import nn, optim

from training.config import TrainConfig


def build_optimizer(network: nn.Module, config: TrainConfig) -> optim.SGD:
    """SGD with Nesterov momentum.

    Weight decay acts on the weights of convolutions and of the classifier only: never on biases,
    batch norm or shortcut scales, where it would pull towards "no skip".
    """
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return optim.SGD(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
    )


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of a step: linear up to the peak, then linear to zero (one cycle).

    A pure function of the step, so that a resumed run needs no scheduler state.
    """
    warmup_steps = max(1, round(config.warmup * steps))
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    return config.learning_rate * (steps - step) / max(1, steps - warmup_steps)

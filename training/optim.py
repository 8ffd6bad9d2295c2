"""Parameter groups, optimizer and learning-rate schedule."""

from __future__ import annotations

import math

from torch import nn, optim

from training.config import TrainConfig
from training.networks.shortcut import Scale

_KERAS_EPSILON = 1e-7
_ADAM_BETAS = (0.9, 0.999)


def build_optimizer(network: nn.Module, config: TrainConfig) -> optim.Optimizer:
    """The optimizer over three groups: weights, what never decays, and scales.

    Weight decay acts on the weights of convolutions and of linear layers only: never on biases or
    batch norm, and on scales only if ``scale_weight_decay`` says so, since there it would pull
    towards "no skip". Each group's ``share`` is its learning rate over that of the weights.
    """
    scales = {id(p) for m in network.modules() if isinstance(m, Scale) for p in m.parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    others = [p for p in trained if id(p) not in scales]
    scale_rate = config.scale_learning_rate
    share = 1.0 if scale_rate is None else scale_rate / config.learning_rate
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        {
            "params": [p for p in trained if id(p) in scales],
            "weight_decay": config.scale_weight_decay,
            "share": share,
        },
    ]
    groups = [{"share": 1.0, **group} for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return optim.SGD(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
        )
    if config.optimizer == "adamw":
        return optim.AdamW(groups, lr=config.learning_rate, betas=_ADAM_BETAS)
    return optim.Adam(groups, lr=config.learning_rate, betas=_ADAM_BETAS, eps=_KERAS_EPSILON)


def set_rates(optimizer: optim.Optimizer, step: int, steps: int, config: TrainConfig) -> float:
    """Give every group its learning rate for a step; returns that of the weights."""
    rate = learning_rate(step, steps, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
        if config.optimizer == "keras_adam":
            # Keras adds its epsilon before the second moment is corrected, PyTorch after it.
            group["eps"] = _KERAS_EPSILON / math.sqrt(1 - _ADAM_BETAS[1] ** (step + 1))
    return rate


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of a step: linear up to the peak, then as the schedule says.

    A pure function of the step, so that a resumed run needs no scheduler state.
    """
    warmup_steps = round(config.warmup * steps)
    if config.schedule == "one_cycle":
        warmup_steps = max(1, warmup_steps)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    left = (steps - step) / max(1, steps - warmup_steps)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 - math.cos(math.pi * left))
    return config.learning_rate * left

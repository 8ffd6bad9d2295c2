"""Save and resume a run: one safetensors file, no pickle.

Randomness needs no state in the file, because every step's generator follows from the run's seed
and the step's place; the optimizer's state is saved with the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from training.averaging import tensors_of
from training.config import TrainConfig

FILE_NAME = "checkpoint.safetensors"
_HEADER_KEY = "adaresnet.checkpoint"
_NETWORK = "network."
_AVERAGED = "averaged."
_OPTIMIZER = "optimizer."


class CheckpointError(Exception):
    """A checkpoint is missing or can't be read."""


class EpochRecord(BaseModel):
    """What one epoch measured.

    Attributes:
        epoch: From 1.
        train_loss: Mean over augmented training images.
        train_accuracy: On augmented training images.
        test_accuracy: Of the network that would be exported, on the test split.
        duration_s: Wall time, evaluation included.
        learning_rate: Of the epoch's last step.
        scales: Every scale at its end, by ``<block>.shortcut`` and ``<block>.branch``.
    """

    model_config = ConfigDict(frozen=True)

    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    duration_s: float
    learning_rate: float
    scales: dict[str, list[float]]


class PartialEpoch(BaseModel):
    """An epoch that was interrupted: steps done, and sums over their images."""

    model_config = ConfigDict(frozen=True)

    steps: int
    loss: float
    right: float
    images: float
    duration_s: float


class RunState(BaseModel):
    """Everything about a run that is not a tensor."""

    model_config = ConfigDict(frozen=True)

    config: TrainConfig
    data_name: str
    data_digest: str
    device: str
    processes: int
    started_from: str | None
    test_name: str
    class_names: tuple[str, ...]
    grey: bool
    image_px: int
    train_images: int
    mean: list[float]
    std: list[float]
    versions: dict[str, str]
    scales_at_start: dict[str, list[float]] = {}
    history: tuple[EpochRecord, ...] = ()
    partial: PartialEpoch | None = None

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)


def checkpoint_path(path: Path) -> Path:
    """Accept a run's folder or the checkpoint file itself."""
    return path / FILE_NAME if path.is_dir() else path


def save_checkpoint(
    state: RunState,
    network: nn.Module,
    optimizer: optim.Optimizer,
    averaged: nn.Module | None,
) -> None:
    """Write the run's checkpoint, replacing the last one in one step."""
    run = state.config.out
    run.mkdir(parents=True, exist_ok=True)
    tensors = {_NETWORK + name: tensor for name, tensor in tensors_of(network)}
    if averaged is not None:
        tensors |= {_AVERAGED + name: tensor for name, tensor in tensors_of(averaged)}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"{_OPTIMIZER}{key}.{name}"] = value
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    aside = run / (FILE_NAME + ".tmp")
    save_file(plain, aside, metadata={_HEADER_KEY: state.model_dump_json()})
    aside.replace(run / FILE_NAME)


def load_checkpoint(path: Path) -> tuple[RunState, dict[str, Tensor]]:
    """Read a checkpoint.

    Args:
        path: Run folder or checkpoint file.

    Returns:
        The run's state, and its tensors for the functions below.

    Raises:
        CheckpointError: No such file, or not one of ours.
    """
    file = checkpoint_path(path)
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give the folder of a training run")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            header: dict[str, str] = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        values: dict[str, Any] = json.loads(header[_HEADER_KEY])
        # What a run used was validated when it started; a file only has to be complete.
        config = values.pop("config")
        config = TrainConfig.model_construct(**{**config, "out": Path(config["out"])})
        return RunState.model_validate({**values, "config": config}), tensors
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is no checkpoint of this program: {error}") from error


def restore_network(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the trained weights into a network of the same shape.

    Raises:
        CheckpointError: They are of another network.
    """
    _restore(network, _under(_NETWORK, tensors))


def restore_averaged(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the weights to evaluate and to export: the average where the run kept one.

    Raises:
        CheckpointError: They are of another network.
    """
    _restore(network, _under(_AVERAGED, tensors) or _under(_NETWORK, tensors))


def restore_optimizer(
    optimizer: optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Load the optimizer's state of every parameter."""
    saved = _under(_OPTIMIZER, tensors)
    for name, parameter in network.named_parameters():
        for full, value in saved.items():
            key, _, owner = full.partition(".")
            if owner == name:
                # The step count of Adam stays on the CPU, what has the weight's shape goes along.
                device = parameter.device if value.shape == parameter.shape else "cpu"
                copied = value.to(device, copy=True)
                if value.ndim == 4:
                    copied = copied.to(memory_format=_memory_format(parameter))
                optimizer.state[parameter][key] = copied


@torch.no_grad()
def _restore(network: nn.Module, saved: dict[str, Tensor]) -> None:
    ours = dict(tensors_of(network))
    if ours.keys() != saved.keys() or any(ours[n].shape != saved[n].shape for n in ours):
        raise CheckpointError("the weights are of another network, width or number of classes")
    for name, tensor in ours.items():
        tensor.copy_(saved[name])


def _memory_format(parameter: Tensor) -> torch.memory_format:
    dense = parameter.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if dense else torch.contiguous_format


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

"""Save and resume a run: one safetensors file, no pickle.

Randomness needs no state in the file, because every epoch seeds its own generator from the run's
seed and its number; momentum buffers are saved with the weights.
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

from training.config import TrainConfig

FILE_NAME = "checkpoint.safetensors"
_HEADER_KEY = "adaresnet.checkpoint"
_NETWORK = "network."
_MOMENTUM = "momentum."


class CheckpointError(Exception):
    """A checkpoint is missing or can't be read."""


class EpochRecord(BaseModel):
    """What one epoch measured."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    duration_s: float
    shortcut_scales: dict[str, float]


class RunState(BaseModel):
    """Everything about a run that is not a tensor."""

    model_config = ConfigDict(frozen=True)

    config: TrainConfig
    data_name: str
    data_digest: str
    device: str
    started_from: str | None
    test_name: str
    class_names: tuple[str, ...]
    grey: bool
    image_px: int
    train_images: int
    mean: list[float]
    std: list[float]
    versions: dict[str, str]
    history: tuple[EpochRecord, ...] = ()

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)


def checkpoint_path(path: Path) -> Path:
    """Accept a run's folder or the checkpoint file itself."""
    return path / FILE_NAME if path.is_dir() else path


def save_checkpoint(
    run: Path, state: RunState, network: nn.Module, optimizer: optim.Optimizer
) -> None:
    """Write the run's checkpoint, replacing the last one in one step."""
    run.mkdir(parents=True, exist_ok=True)
    tensors = {_NETWORK + name: tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[_MOMENTUM + name] = momentum
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    aside = run / (FILE_NAME + ".tmp")
    save_file(plain, aside, metadata={_HEADER_KEY: state.model_dump_json()})
    aside.replace(run / FILE_NAME)


def load_checkpoint(path: Path) -> tuple[RunState, dict[str, Tensor]]:
    """Read a checkpoint.

    Args:
        path: Run folder or checkpoint file.

    Returns:
        The run's state, and its tensors for ``restore_network`` and ``restore_optimizer``.

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
        config = TrainConfig.model_construct(**{**values.pop("config")})
        return RunState.model_validate({**values, "config": config}), tensors
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is no checkpoint of this program: {error}") from error


def restore_network(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the weights of a checkpoint into a network of the same shape."""
    network.load_state_dict(_under(_NETWORK, tensors))


def restore_optimizer(
    optimizer: optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Load the momentum of a checkpoint."""
    momentum = _under(_MOMENTUM, tensors)
    for name, parameter in network.named_parameters():
        if name in momentum:
            optimizer.state[parameter]["momentum_buffer"] = (
                momentum[name]
                .to(parameter.device, copy=True)
                .to(memory_format=_memory_format(parameter))
            )


def _memory_format(parameter: Tensor) -> torch.memory_format:
    return torch.channels_last if parameter.ndim == 4 else torch.contiguous_format


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

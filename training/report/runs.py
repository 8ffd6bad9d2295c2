"""Open a training run to look at it: its state, and its network with the trained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from training.checkpoint import CheckpointError, RunState, load_checkpoint, restore_averaged
from training.data.augment import Normalize
from training.networks.registry import AdaptiveNetwork
from training.report.errors import ReportError
from training.start import network_of

Say = Callable[[str], None]
DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class OpenRun:
    """A run that was read from its checkpoint.

    Attributes:
        path: What the caller named it by.
        state: Everything but tensors.
        network: With the weights that are evaluated and exported, averaged ones where the run has
            them; in evaluation mode, on ``device``.
        normalize: The run's normalisation, on ``device``.
        device: Where it runs.
    """

    path: Path
    state: RunState
    network: AdaptiveNetwork
    normalize: Normalize
    device: torch.device


def open_run(path: Path, device: DeviceChoice = "auto") -> OpenRun:
    """Read a run.

    Args:
        path: Run folder or checkpoint file.
        device: Where its network shall be.

    Raises:
        CheckpointError: No such file, not one of ours, or with weights of another network.
        TrainingError: The run's network can't be built any more.
        ReportError: The device can't be used.
    """
    place = pick_device(device)
    state, tensors = load_checkpoint(path)
    network = network_of(state)
    try:
        restore_averaged(network, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    network.to(place).eval()
    return OpenRun(path, state, network, Normalize(state.mean, state.std).to(place), place)


def pick_device(choice: DeviceChoice) -> torch.device:
    """The device to run on; ``auto`` takes a GPU where there is one.

    Raises:
        ReportError: ``cuda`` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise ReportError("PyTorch finds no CUDA device; use --device cpu")
    return torch.device("cuda" if available and choice != "cpu" else "cpu")

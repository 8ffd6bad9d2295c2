"""One process or several, on one machine or more: what differs between them, through Accelerate.

Started by ``accelerate launch``, which tells each process its place in the environment; without it a
run is one process, and Accelerate is not even imported.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Attributes:
        index: 0 for the one that evaluates, logs and saves.
        count: Number of processes.
        device: Where this one trains.
    """

    index: int
    count: int
    device: torch.device
    _accelerator: Any = None

    @property
    def is_main(self) -> bool:
        """This process evaluates, logs and saves."""
        return self.index == 0

    def wrap(self, network: nn.Module, *, some_unused: bool) -> nn.Module:
        """Let the gradients of all processes be averaged.

        Args:
            network: The network, on its device.
            some_unused: Some parameters take no part in some steps.
        """
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(
            network,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            find_unused_parameters=some_unused,
        )

    def unsynchronised(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Keep gradients to this process, for all but the last part of a batch."""
        if self.count == 1:
            return contextlib.nullcontext()
        return cast(contextlib.AbstractContextManager[None], self._accelerator.no_sync(model))

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, float64 of any shape."""
        if self.count == 1:
            return values
        return cast(Tensor, self._accelerator.reduce(values, reduction="sum"))

    def wait(self) -> None:
        """Let every process get here."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()


def join_processes(device: torch.device) -> Processes:
    """Find this process's place.

    Args:
        device: What a single process would take; with several on a GPU machine, each takes its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, device)
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu")
    return Processes(
        accelerator.process_index, accelerator.num_processes, accelerator.device, accelerator
    )

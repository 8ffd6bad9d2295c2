"""One process or several, on one machine or more: what differs between them, through Accelerate.

Started by ``accelerate launch --multi_gpu`` or ``torchrun``, which tell each process its place in
the environment; without them a run is one process, and Accelerate is not even imported.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.errors import TrainingError

_AGREE_S = 2.0  # a launcher kills after 30 s what was asked to stop
_AGREE_STEPS = 50


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Attributes:
        index: 0 for the one that evaluates, logs and saves.
        count: Number of processes.
        device: Where this one trains.
        on_machine: Processes on this machine, which share its memory.
    """

    index: int
    count: int
    device: torch.device
    on_machine: int = 1
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
        """Keep gradients to this process, for all but the last part of a batch.

        Args:
            model: What ``wrap`` returned, or that compiled.
        """
        wrapped = getattr(model, "_orig_mod", model)  # torch.compile hides the method
        if not isinstance(wrapped, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return cast(contextlib.AbstractContextManager[None], self._accelerator.no_sync(wrapped))

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, float64 of any shape; the same bits in every process."""
        if self.count == 1:
            return values
        return cast(Tensor, self._accelerator.reduce(values, reduction="sum"))

    def same(self, values: Tensor) -> bool:
        """Every process has the same values, float64 [N]; every process gets the same answer."""
        if self.count == 1:
            return True
        rows = cast(Tensor, self._accelerator.gather(values[None]))
        return bool((rows == rows[0]).all())

    def wait(self) -> None:
        """Let every process get here."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()

    def leave(self) -> None:
        """Part in good order, when a run ends as it should."""
        if self.count > 1:
            self._accelerator.end_training()


class Agreement:
    """All processes stop behind the same step, if one of them is asked to.

    Asking the others makes a GPU wait, so it is done every two seconds or so.
    """

    def __init__(self, processes: Processes) -> None:
        """Begin to count steps."""
        self._processes = processes
        self._interval = self._left = 1
        self._since = time.perf_counter()

    def stops(self, wish: bool) -> bool:
        """Every process calls this after every step; ``wish`` is this one's own."""
        if self._processes.count == 1:
            return wish
        self._left -= 1
        if self._left:
            return False
        told = [float(wish), time.perf_counter() - self._since]
        told_by_all = self._processes.total(
            torch.tensor(told, dtype=torch.float64, device=self._processes.device)
        )
        wishes, seconds = told_by_all.tolist()
        # Sums are the same everywhere, so every process asks again after the same step.
        step_s = seconds / self._processes.count / self._interval
        self._interval = self._left = max(1, min(_AGREE_STEPS, int(_AGREE_S / (step_s + 1e-9))))
        self._since = time.perf_counter()
        return bool(wishes > 0)


def place(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's index and the number of processes, as the launcher says."""
    return int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))


def join_processes(device: torch.device) -> Processes:
    """Find this process's place.

    Args:
        device: What a single process would take; with several on a GPU machine, each takes its own.

    Raises:
        TrainingError: The launcher was asked for several processes and started one.
    """
    _, count = place()
    if count == 1:
        if "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU") == "True":
            raise TrainingError(
                "'accelerate launch --cpu' starts one process whatever --num_processes says: take"
                " 'accelerate launch --multi_gpu' (for CPUs too, with --device cpu behind"
                " 'adaresnet train') or 'torchrun --nproc_per_node'"
            )
        return Processes(0, 1, device)
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu")
    return Processes(
        accelerator.process_index,
        accelerator.num_processes,
        device if device.type == "cpu" else accelerator.device,
        int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        accelerator,
    )

"""Run by torchrun in test_processes.py: what can only be seen from inside of a process."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]

from tests.conftest import tiny_config
from training import loop, start
from training.config import TrainConfig
from training.data.augment import Normalize
from training.droppath import Droppath
from training.networks.network import NetworkOptions
from training.networks.registry import build_network
from training.optim import build_optimizer
from training.processes import Agreement, Processes, join_processes
from training.randomness import generator_of
from training.step import Trainer, train_step

STEPS = 6
EPOCHS = 8
BATCH = 32
EVERYTHING = {
    "droppath": "residual",
    "drop_rate": 0.7,
    "accumulate": 2,
    "placement": "both",
    "ema": 0.9,
    "reestimate_norm": True,
    "clip_norm": 1.0,
    "mixup": 0.2,
}
# The variants whose gradients must not depend on the number of processes.
GRADIENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"accumulate": 4},
    "clipped": {"clip_norm": 0.05, "accumulate": 2},
    "stochastic_depth": {"droppath": "stochastic_depth", "drop_rate": 0.7},
    "residual": {"droppath": "residual", "drop_rate": 0.7, "accumulate": 2},
    "residual_head": {"droppath": "residual", "drop_rate": 0.7, "residual_head": True},
}


def trainer_of(config: TrainConfig, processes: Processes) -> Trainer:
    """A network in evaluation mode: batch norm would see other batches in every process."""
    torch.manual_seed(0)
    network = build_network(config.network, NetworkOptions(3, 3, 16)).eval()
    return Trainer(
        config=config,
        network=network,
        model=processes.wrap(network, some_unused=config.droppath != "none"),
        normalize=Normalize([0.5] * 3, [0.25] * 3),
        optimizer=build_optimizer(network, config),
        droppath=Droppath(network, config),
        averaged=None,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        processes=processes,
    )


def train_some(trainer: Trainer) -> torch.Tensor:
    """Some steps on drawn batches; returns the sums of all processes."""
    processes = trainer.processes
    totals = torch.zeros(3, dtype=torch.float64)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        pixels = torch.randint(0, 256, (BATCH, 16, 16, 3), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 3, (BATCH,), generator=generator)
        mine = slice(processes.index, None, processes.count)
        totals += train_step(
            trainer, pixels[mine], labels[mine], step, STEPS, generator_of(0, step)
        )
    return processes.total(totals)


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def gradients(processes: Processes, out: Path) -> dict[str, list[float]]:
    """The same steps with all processes and with one; saves both results, returns the sums."""
    sums = {}
    for name, changes in GRADIENTS.items():
        config = tiny_config(out, out, batch_size=BATCH, **changes)
        for kind, group in (("all", processes), ("one", Processes(0, 1, processes.device))):
            trainer = trainer_of(config, group)
            sums[f"{name}-{kind}"] = train_some(trainer).tolist()
            torch.save(weights(trainer.network), out / f"{name}-{kind}-{processes.index}.pt")
    return sums


def synchronisations(processes: Processes, out: Path) -> int:
    """How often gradients are averaged in a step of four parts."""
    config = tiny_config(out, out, batch_size=BATCH, accumulate=4)
    trainer = trainer_of(config, processes)
    seen = []

    def count(state: object, bucket: Any) -> Any:
        seen.append(bucket.index())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    # The hook's types are looked at, and this file's are strings.
    count.__annotations__ = {"bucket": GradBucket, "return": torch.futures.Future[torch.Tensor]}
    trainer.model.register_comm_hook(None, count)  # type: ignore[operator]
    train_some(trainer)
    return seen.count(0)


def whole_run(data: str, out: Path, index: int) -> None:
    """``fit`` with everything on; saves this process's own weights, and its files if it wrote."""
    seen: list[Trainer] = []
    begin = start.start_run

    def start_and_look(*args: Any) -> Any:
        state, trainer = begin(*args)
        seen.append(trainer)
        return state, trainer

    loop.start_run = start_and_look  # type: ignore[attr-defined, assignment]
    config = tiny_config(Path(data), out / f"run{index}", epochs=EPOCHS, **EVERYTHING)
    state = loop.fit(config, lambda line: None)
    torch.save(weights(seen[0].network), out / f"own-{index}.pt")
    (out / f"history-{index}.json").write_text(state.model_dump_json())


def stopping(processes: Processes) -> list[int]:
    """One process wants to stop in step 30 of 200; the steps at which each is told."""
    agreement, told = Agreement(processes), []
    for step in range(200):
        time.sleep(0.002)
        if agreement.stops(step >= 30 and processes.index == 1):
            told.append(step)
    return told


def main() -> None:
    data, out = sys.argv[1], Path(sys.argv[2])
    processes = join_processes(torch.device("cpu"))
    told = {
        "sums": gradients(processes, out),
        "synchronisations": synchronisations(processes, out),
        "stopping": stopping(processes),
        "same": processes.same(torch.ones(3).double()),
        "different": processes.same(torch.tensor([1.0, float(processes.index)]).double()),
        "on_machine": processes.on_machine,
    }
    (out / f"told-{processes.index}.json").write_text(json.dumps(told))
    whole_run(data, out, processes.index)  # leaves the others


if __name__ == "__main__":
    main()

"""What the training benchmarks share: a run on random pixels, and how fast it goes."""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from training.config import TrainConfig
from training.data.augment import to_channels
from training.data.dataset import ImageData, Split
from training.journal import Journal
from training.loop import Run, train_epoch
from training.networks.registry import find_network
from training.processes import Processes
from training.start import start_run
from training.step import Trainer

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_CLASSES = 10


def random_run(config: TrainConfig, steps: int, device: torch.device) -> Run:
    """Begin a run on random pixels, which lie on the device: speed does not depend on them.

    Args:
        config: The run; its epochs must be more than will be timed.
        steps: Steps of an epoch.
        device: Where to train.
    """
    count = config.batch_size * steps
    px = config.image_px or find_network(config.network).image_px
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, px, px, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, _CLASSES, (count,), generator=generator)
    train = Split(pixels.to(device), labels.to(device))
    test = Split(pixels[:2], labels[:2])
    names = tuple(map(str, range(_CLASSES)))
    data = ImageData("random", names, grey=False, train=train, test=test, test_name="random")
    state, trainer = start_run(config, data, Processes(0, 1, device), _be_quiet)
    journal = Journal(state, resumed_at=0, tensorboard=config.tensorboard)
    return Run(trainer, data, journal, _be_quiet, lambda: False)


def loop_rate(run: Run) -> float:
    """Images/s of the training loop, logs and augmentation and all, behind a warm-up epoch."""
    train_epoch(0, run)
    _finish(run.trainer.device)
    started = time.perf_counter()
    train_epoch(1, run)
    _finish(run.trainer.device)
    return len(run.data.train) / (time.perf_counter() - started)


def bare_rate(run: Run, warm_steps: int, steps: int) -> float:
    """Images/s of forward, backward and optimizer step over one normalised batch, over and over."""
    trainer, config = run.trainer, run.config
    train = run.data.train.in_memory()
    x = trainer.normalize(to_channels(train.pixels[: config.batch_size], grey=False))
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    labels = train.labels[: config.batch_size]
    trainer.network.train()
    _bare_steps(trainer, x, labels, warm_steps)
    started = time.perf_counter()
    _bare_steps(trainer, x, labels, steps)
    return len(x) * steps / (time.perf_counter() - started)


def _bare_steps(trainer: Trainer, x: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    kind = _TYPES.get(trainer.config.precision)
    for _ in range(steps):
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(trainer.device.type, kind, enabled=kind is not None):
            logits = trainer.model(x)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        trainer.optimizer.step()
    _finish(trainer.device)


def make_config(out: Path, values: dict[str, Any]) -> TrainConfig:
    """A configuration whose run nobody will read; ``out`` is a folder that can go."""
    folder = Path(tempfile.mkdtemp(dir=out))
    return TrainConfig(
        **{"data": "random", "out": folder, "epochs": 3, "tensorboard": False, **values}
    )


def describe_machine(device: torch.device) -> str:
    """Machine and versions, one line."""
    where = platform.processor() or platform.machine()
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        where = torch.cuda.get_device_name(device)
        where += f", CUDA {torch.version.cuda}, cuDNN {cudnn}"
    else:
        where += f", {torch.get_num_threads()} threads"
    return f"{where}, PyTorch {torch.__version__}, Python {platform.python_version()}"


def _finish(device: torch.device) -> None:
    """Wait for what a GPU was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _be_quiet(line: str) -> None:
    pass

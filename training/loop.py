"""One training run, top to bottom. Start reading here."""

from __future__ import annotations

import math
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, optim
from tqdm import tqdm

from training import checkpoint
from training.checkpoint import EpochRecord, RunState
from training.config import TrainConfig
from training.data.augment import (
    Normalize,
    channel_statistics,
    cut_out,
    random_views,
    to_channels,
)
from training.data.dataset import ImageData, Split, load_data
from training.evaluate import accuracy
from training.networks.cifar import CifarResNet, NetworkOptions
from training.networks.registry import build_network
from training.optim import build_optimizer, learning_rate

_RECORDED_PACKAGES = ("adaresnet", "torch", "numpy", "pillow", "datasets")


class TrainingError(Exception):
    """A run can't start or can't go on; the message says why and what to do."""


@dataclass(frozen=True)
class Trainer:
    """The live objects of a run, handed from step to step."""

    config: TrainConfig
    network: CifarResNet
    normalize: Normalize
    optimizer: optim.SGD
    device: torch.device


def fit(config: TrainConfig, say: Callable[[str], None]) -> RunState:
    """Train a network as configured, saving a checkpoint after every epoch.

    Args:
        config: The run.
        say: Receives the few lines worth keeping in a log.

    Returns:
        The state of the finished run; weights are in the checkpoint under ``config.out``.

    Raises:
        TrainingError: The device is missing, the loss is not finite, or resuming does not fit.
        DataError: The data can't be read.
        CheckpointError: ``config.resume`` and there is nothing to resume.
    """
    device = _device(config)
    _check_writable(config.out)
    torch.manual_seed(config.seed)
    data = load_data(config.data, config.image_px, config.resize, config.seed)
    say(
        f"data: {data.name}, {len(data.train)} training and {len(data.test)} test images"
        f" ({data.test_name}), {len(data.class_names)} classes, {data.train.pixels.shape[1]} px"
    )
    state, trainer = _start(config, data, device)
    parameters = sum(p.numel() for p in trainer.network.parameters())
    say(f"network: {config.network} x{config.width}, {parameters:,} parameters, on {device}")
    pixels = data.train.pixels.to(device)
    train = Split(pixels, data.train.labels.to(device))
    for epoch in range(state.epochs_done, config.epochs):
        state = _run_epoch(epoch, state, trainer, train, data.test, say)
        checkpoint.save_checkpoint(config.out, state, trainer.network, trainer.optimizer)
    return state


def _start(config: TrainConfig, data: ImageData, device: torch.device) -> tuple[RunState, Trainer]:
    """Fresh or resumed state, and the objects that go with it."""
    tensors: dict[str, Tensor] = {}
    if config.resume:
        state, tensors = checkpoint.load_checkpoint(config.out)
        if state.config.portable() != config.portable() or state.data_digest != data.digest:
            what = "settings" if state.data_digest == data.digest else "data"
            raise TrainingError(
                f"the checkpoint in {config.out} was made with other {what}; resume with the"
                " same, or train into another --out"
            )
    else:
        if checkpoint.checkpoint_path(config.out).is_file():
            raise TrainingError(
                f"{config.out} holds a run already: add --resume, or choose another --out"
            )
        mean, std = channel_statistics(data.train.pixels, grey=data.grey)
        state = RunState(
            config=config,
            data_name=data.name,
            data_digest=data.digest,
            test_name=data.test_name,
            class_names=data.class_names,
            grey=data.grey,
            image_px=data.train.pixels.shape[1],
            train_images=len(data.train),
            mean=mean,
            std=std,
            device=device.type,
            versions={"python": platform.python_version()}
            | {name: metadata.version(name) for name in _RECORDED_PACKAGES},
            started_from=_origin(config),
        )
    network = network_of(state)
    if config.start_from is not None and not tensors:
        _start_from(config.start_from, network)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(network, config)
    if tensors:
        checkpoint.restore_network(network, tensors)
        checkpoint.restore_optimizer(optimizer, network, tensors)
    normalize = Normalize(state.mean, state.std).to(device)
    return state, Trainer(config, network, normalize, optimizer, device)


def _origin(config: TrainConfig) -> str | None:
    """The run that this one takes its first weights from, by the hash of its configuration."""
    if config.start_from is None:
        return None
    state, _ = checkpoint.load_checkpoint(config.start_from)
    return f"{state.config.stable_hash()}, {state.epochs_done} epochs"


def _start_from(run: Path, network: CifarResNet) -> None:
    _, tensors = checkpoint.load_checkpoint(run)
    try:
        checkpoint.restore_network(network, tensors)
    except RuntimeError:
        raise TrainingError(
            f"the weights in {run} are of another network, width or number of classes"
        ) from None


def network_of(state: RunState) -> CifarResNet:
    """Build the network that a run trains, with fresh weights."""
    config = state.config
    options = NetworkOptions(
        channels=1 if state.grey else 3,
        classes=len(state.class_names),
        width=config.width,
        shortcut_init=config.shortcut_init,
        shortcut_learned=config.shortcut == "learned",
    )
    try:
        return build_network(config.network, options)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def _run_epoch(
    epoch: int,
    state: RunState,
    trainer: Trainer,
    train: Split,
    test: Split,
    say: Callable[[str], None],
) -> RunState:
    started = time.perf_counter()
    loss, train_accuracy = train_epoch(epoch, trainer, train)
    test_accuracy = accuracy(trainer.network, trainer.normalize, test, grey=state.grey)
    record = EpochRecord(
        epoch=epoch + 1,
        train_loss=loss,
        train_accuracy=train_accuracy,
        test_accuracy=test_accuracy,
        duration_s=time.perf_counter() - started,
        shortcut_scales={n: b.shortcut_scale.value for n, b in trainer.network.named_blocks()},
    )
    say(
        f"epoch {record.epoch}/{trainer.config.epochs}: loss {loss:.4f}, train"
        f" {train_accuracy:.2%}, test {test_accuracy:.2%}, {record.duration_s:.0f} s"
    )
    return state.model_copy(update={"history": (*state.history, record)})


def train_epoch(epoch: int, trainer: Trainer, train: Split) -> tuple[float, float]:
    """One pass over the training images; returns mean loss and accuracy on augmented images."""
    config = trainer.config
    # A generator of its own for every epoch makes a resumed run equal to an unbroken one.
    generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
    batches = torch.split(torch.randperm(len(train), generator=generator), config.batch_size)
    if len(batches) > 1 and len(batches[-1]) < config.batch_size:
        batches = batches[:-1]  # a batch of a few images would upset batch norm
    steps = config.epochs * len(batches)
    totals = torch.zeros(2, dtype=torch.float64, device=trainer.device)
    seen = 0
    progress = tqdm(batches, desc=f"epoch {epoch + 1}/{config.epochs}", leave=False, disable=None)
    trainer.network.train()
    for step, batch in enumerate(progress, start=epoch * len(batches)):
        rate = learning_rate(step, steps, config)
        views = random_views(
            train.pixels, batch, config.shift_px, flip=config.flip, generator=generator
        )
        views = cut_out(views, config.cutout_px, generator)
        totals += _step(views, train.labels[batch.to(trainer.device)], rate, trainer)
        seen += len(batch)
        if (step + 1) % 20 == 0:
            mean_loss, mean_accuracy = (totals / seen).tolist()
            if not math.isfinite(mean_loss):
                break
            progress.set_postfix(loss=f"{mean_loss:.3f}", acc=f"{mean_accuracy:.1%}")
    loss, right = (totals / seen).tolist()
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in epoch {epoch + 1}: lower --learning-rate."
            + (f" The epoch before is kept in {config.out}" if epoch else "")
        )
    return loss, right


def _step(pixels: Tensor, labels: Tensor, rate: float, trainer: Trainer) -> Tensor:
    """One optimizer step; returns summed loss and number of right answers, float64 [2]."""
    config = trainer.config
    grey = trainer.normalize.mean.numel() == 1
    x = trainer.normalize(to_channels(pixels, grey=grey))
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    low = config.precision == "bfloat16"
    with torch.autocast(trainer.device.type, torch.bfloat16, enabled=low):
        logits = trainer.network(x)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
    trainer.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    trainer.optimizer.step()
    right = (logits.argmax(dim=1) == labels).sum()
    return torch.stack([loss.detach().double() * len(labels), right.double()])


def _check_writable(out: Path) -> None:
    """Find out before the first epoch and not after it that nothing can be saved."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise TrainingError(f"--out {out} can't be written: {error.strerror}") from None


def _device(config: TrainConfig) -> torch.device:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise TrainingError(
            "--device cuda was asked for, but PyTorch finds no CUDA device; use --device cpu"
        )
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")

"""One training run, top to bottom. Start reading here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from training.averaging import reestimate_norms
from training.checkpoint import EpochRecord, PartialEpoch, RunState, save_checkpoint
from training.config import TrainConfig
from training.data.augment import to_channels
from training.data.batches import read_batches
from training.data.dataset import ImageData, Split
from training.errors import Stopped, TrainingError
from training.evaluate import accuracy
from training.health import check_finite, check_weights
from training.journal import Journal
from training.needs import evaluation_images, say_duration
from training.networks.network import scale_values
from training.networks.registry import find_network
from training.optim import learning_rate
from training.processes import Agreement, Processes, join_processes
from training.randomness import generator_of
from training.start import check_writable, choose_device, load_run_data, start_run
from training.step import Trainer, train_step, training_views

LOG_STEPS = 20  # between two looks at the loss, which make a GPU wait
_WARM_STEPS = 3  # slower than the rest: memory is taken, kernels are chosen
_TIMED_STEPS = 10
_NORM_BATCHES = 100  # for --reestimate-norm

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What a run's functions share besides its state.

    Attributes:
        trainer: The live objects.
        data: Both splits, the training one on the device where it fits.
        journal: The log; None in processes that don't write it.
        say: Receives the few lines worth keeping.
        stop: Says that the run should save and stop.
        first_epoch: Epochs that were done when this process began.
    """

    trainer: Trainer
    data: ImageData
    journal: Journal | None
    say: Say
    stop: Callable[[], bool]
    first_epoch: int = 0

    @property
    def config(self) -> TrainConfig:
        """The run's configuration."""
        return self.trainer.config


def fit(config: TrainConfig, say: Say, stop: Callable[[], bool] = lambda: False) -> RunState:
    """Train a network as configured, saving a checkpoint after every epoch.

    Args:
        config: The run.
        say: Receives the few lines worth keeping in a log.
        stop: Asked after every step; once it says True the run saves and raises ``Stopped``.

    Returns:
        The state of the finished run; weights are in the checkpoint under ``config.out``.

    Raises:
        TrainingError: The device is missing, the run can't fit into memory, the loss is not finite,
            or resuming does not fit.
        DataError: The data can't be read.
        CheckpointError: ``config.resume`` and there is nothing to resume.
        Stopped: ``stop`` said so; ``--resume`` goes on from the very step.
    """
    try:
        find_network(config.network)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    processes = join_processes(choose_device(config))
    if not processes.is_main:
        say = _be_quiet
    check_writable(config.out)
    data = load_run_data(config, say)
    say(
        f"data: {data.name}, {len(data.train)} training and {len(data.test)} test images"
        f" ({data.test_name}), {len(data.class_names)} classes, {data.train.image_px} px"
    )
    config = config.for_images(len(data.train))
    state, trainer = start_run(config, data, processes, say)
    say(_describe(trainer))
    data = _resident(data, processes.device)
    done = state.epochs_done * config.steps_per_epoch(len(data.train), processes.count)
    done += state.partial.steps if state.partial else 0
    journal = None
    if processes.is_main:
        journal = Journal(state, resumed_at=done, tensorboard=config.tensorboard)
    run = Run(trainer, data, journal, say, stop, first_epoch=state.epochs_done)
    try:
        for epoch in range(state.epochs_done, config.epochs):
            state = _run_epoch(epoch, state, run)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the device ran out of memory: lower --batch-size or raise --accumulate"
        ) from error
    finally:
        if journal is not None:
            journal.close()
    processes.leave()
    return state


def _run_epoch(epoch: int, state: RunState, run: Run) -> RunState:
    trainer, config = run.trainer, run.config
    started = time.perf_counter()
    before = state.partial.duration_s if state.partial else 0.0
    totals, steps = train_epoch(epoch, run, state)
    check_weights(trainer, epoch)
    loss, right, images = totals.tolist()
    if config.reestimate_norm and epoch + 1 == config.epochs:
        reestimate_norms(trainer.evaluated, _norm_inputs(run))
    test_accuracy = 0.0
    if trainer.processes.is_main:
        test_accuracy = accuracy(
            trainer.evaluated,
            trainer.normalize,
            run.data.test,
            grey=state.grey,
            batch_size=evaluation_images(config, trainer.processes.count),
        )
    record = EpochRecord(
        epoch=epoch + 1,
        train_loss=loss / images,
        train_accuracy=right / images,
        test_accuracy=test_accuracy,
        duration_s=before + time.perf_counter() - started,
        learning_rate=learning_rate((epoch + 1) * steps - 1, config.epochs * steps, config),
        scales=scale_values(trainer.evaluated.named_blocks()),
    )
    state = state.model_copy(update={"history": (*state.history, record), "partial": None})
    left_s = record.duration_s * (config.epochs - record.epoch)
    run.say(
        f"epoch {record.epoch}/{config.epochs}: loss {record.train_loss:.4f}, train"
        f" {record.train_accuracy:.2%}, test {test_accuracy:.2%}, {record.duration_s:.0f} s"
        + (f", {say_duration(left_s)} left" if left_s else "")
    )
    if run.journal is not None:
        run.journal.epoch((epoch + 1) * steps, record)
        save_checkpoint(state, trainer.network, trainer.optimizer, _averaged(trainer))
    trainer.processes.wait()
    return state


def train_epoch(epoch: int, run: Run, state: RunState | None = None) -> tuple[Tensor, int]:
    """One pass over the training images, or the rest of one that was interrupted.

    Args:
        epoch: Epochs done before this one.
        run: The run.
        state: What to save when the run is stopped; its ``partial`` epoch is gone on with.

    Returns:
        Summed loss, right answers on augmented images, and images, float64 [3], of all processes;
        and the number of steps.

    Raises:
        TrainingError: The loss is not finite.
        Stopped: The run was asked to stop.
    """
    trainer, config = run.trainer, run.config
    batches = _batches(epoch, config, len(run.data.train), trainer.processes.count)
    steps = config.epochs * len(batches)
    partial = state.partial if state is not None else None
    skip = partial.steps if partial else 0
    totals = torch.zeros(3, dtype=torch.float64, device=trainer.device)
    if partial and trainer.processes.is_main:
        totals += totals.new_tensor([partial.loss, partial.right, partial.images])
    shares = [_share(batch, trainer.processes) for batch in _seen(batches, epoch, run)]
    progress, agreement = _Progress(run, epoch, batches, skip, totals), Agreement(trainer.processes)
    trainer.network.train()
    for number, (pixels, labels) in enumerate(
        read_batches(run.data.train, shares[skip:], trainer.device, config.workers), start=skip
    ):
        step = epoch * len(batches) + number
        generator = generator_of(config.seed, 3, step, trainer.processes.index)
        views = training_views(pixels, shares[number], epoch, config, generator)
        totals += train_step(trainer, views, labels, step, steps, generator)
        progress.step(number, step, totals)
        if state is not None and agreement.stops(run.stop()):
            progress.close()
            _save_partial(state, run, number + 1, totals, progress.elapsed_s)
    progress.close()
    totals = trainer.processes.total(totals)
    check_finite(totals, epoch, config)
    return totals, len(batches)


def _batches(epoch: int, config: TrainConfig, images: int, processes: int) -> list[Tensor]:
    """The epoch's batches in order: positions in the training set, int64 [B] each.

    Every batch is a multiple of the processes, because their gradients are averaged as equals.
    """
    order = torch.randperm(images, generator=generator_of(config.seed, 4, epoch))
    batches = list(torch.split(order, config.batch_size))
    short = len(batches[-1]) < config.batch_size
    if len(batches) > 1 and short and config.last_batch == "drop":
        batches.pop()  # a batch of a few images would upset batch norm
    batches[-1] = batches[-1][: len(batches[-1]) // processes * processes]
    return batches if len(batches[-1]) else batches[:-1]


def _seen(batches: Sequence[Tensor], epoch: int, run: Run) -> Iterator[Tensor]:
    """The batches as the steps take them: with ``residual_same_batch``, some twice."""
    for number, batch in enumerate(batches):
        step = epoch * len(batches) + number
        again = run.config.residual_same_batch and run.trainer.droppath.is_second(step)
        yield batches[number - 1] if again and number else batch


def _share(batch: Tensor, processes: Processes) -> Tensor:
    """This process's images of a batch."""
    return batch[processes.index :: processes.count]


class _Progress:
    """The progress bar, the log rows between epochs, and the estimate of the time."""

    def __init__(
        self, run: Run, epoch: int, batches: Sequence[Tensor], skip: int, totals: Tensor
    ) -> None:
        self._run, self._config = run, run.config
        self._batches, self._skip = batches, skip
        self._started = time.perf_counter()
        self._last = run.trainer.processes.total(totals).cpu().clone(), self._started
        self._bar = tqdm(
            total=sum(map(len, batches)),
            initial=sum(map(len, batches[:skip])),
            desc=f"epoch {epoch + 1}/{self._config.epochs}",
            unit=" images",
            unit_scale=True,
            leave=False,
            disable=None if run.trainer.processes.is_main else True,
        )
        self._epoch = epoch
        self._warm = self._started

    @property
    def elapsed_s(self) -> float:
        """Since this process began the epoch."""
        return time.perf_counter() - self._started

    def step(self, number: int, step: int, totals: Tensor) -> None:
        """Count a step; every now and then look at the loss, and log.

        Raises:
            TrainingError: The loss is not finite.
        """
        self._bar.update(len(self._batches[number]))
        taken = number - self._skip + 1
        if taken == _WARM_STEPS:
            self._show(self._run.trainer.processes.total(totals))  # a GPU gets done
            self._warm = time.perf_counter()
        if self._epoch == self._run.first_epoch and taken == _WARM_STEPS + _TIMED_STEPS:
            self._estimate(totals)
        if (number + 1) % LOG_STEPS and number + 1 != len(self._batches):
            return
        totals = self._run.trainer.processes.total(totals)
        check_finite(totals, self._epoch, self._config)
        now = time.perf_counter()
        loss, accuracy, images = self._show(totals)
        images_per_s = images / (now - self._last[1])
        self._last = totals.cpu().clone(), now
        if self._run.journal is not None:
            steps = self._config.epochs * len(self._batches)
            self._run.journal.step(
                step + 1,
                loss=loss,
                accuracy=accuracy,
                learning_rate=learning_rate(step, steps, self._config),
                images_per_s=images_per_s,
                scales=scale_values(self._run.trainer.network.named_blocks()),
            )

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def _show(self, totals: Tensor) -> tuple[float, float, float]:
        """Show means since the last row: loss, accuracy; returns them, and the images."""
        loss, right, images = (totals.cpu() - self._last[0]).tolist()
        loss, accuracy = loss / images, right / images
        self._bar.set_postfix(loss=f"{loss:.3f}", acc=f"{accuracy:.1%}")
        return loss, accuracy, images

    def _estimate(self, totals: Tensor) -> None:
        """Say how long the run will take."""
        totals.cpu()
        step_s = (time.perf_counter() - self._warm) / _TIMED_STEPS
        left = len(self._batches) * (self._config.epochs - self._epoch) - self._skip
        self._run.say(
            f"time: about {say_duration(step_s * len(self._batches))} an epoch,"
            f" {say_duration(step_s * left)} in all, evaluation aside"
        )


def _save_partial(state: RunState, run: Run, steps: int, totals: Tensor, elapsed_s: float) -> None:
    """Save in the middle of an epoch and leave.

    Raises:
        Stopped: Always.
        TrainingError: The loss is not finite, so there is nothing worth saving.
    """
    processes = run.trainer.processes
    totals = processes.total(totals)
    check_finite(totals, state.epochs_done, run.config)
    check_weights(run.trainer, state.epochs_done)
    before = state.partial.duration_s if state.partial else 0.0
    loss, right, images = totals.tolist()
    if run.journal is not None:
        partial = PartialEpoch(
            steps=steps, loss=loss, right=right, images=images, duration_s=before + elapsed_s
        )
        trainer = run.trainer
        stopped = state.model_copy(update={"partial": partial})
        save_checkpoint(stopped, trainer.network, trainer.optimizer, _averaged(trainer))
    processes.wait()  # a launcher ends the others once the first has left
    processes.leave()
    raise Stopped(f"stopped in epoch {state.epochs_done + 1} after {steps} of its steps")


def _norm_inputs(run: Run) -> Iterator[Tensor]:
    """Training images as they are, for batch norm's statistics."""
    trainer = run.trainer
    grey = trainer.normalize.mean.numel() == 1
    batches = _batches(0, run.config, len(run.data.train), 1)[:_NORM_BATCHES]
    for pixels, _ in read_batches(run.data.train, batches, trainer.device, run.config.workers):
        yield trainer.normalize(to_channels(pixels, grey=grey))


def _resident(data: ImageData, device: torch.device) -> ImageData:
    """The data with its training images on the device, where they are in memory at all."""
    if not isinstance(data.train, Split):
        return data
    train = Split(data.train.pixels.to(device), data.train.labels.to(device))
    return replace(data, train=train)


def _averaged(trainer: Trainer) -> torch.nn.Module | None:
    return None if trainer.averaged is None else trainer.averaged.network


def _describe(trainer: Trainer) -> str:
    config, processes = trainer.config, trainer.processes
    parameters = sum(p.numel() for p in trainer.network.parameters())
    several = f" in {processes.count} processes" if processes.count > 1 else ""
    return (
        f"network: {config.network} x{config.width:g}, {parameters:,} parameters,"
        f" {config.granularity} scales on {config.placement}, on {processes.device}{several}"
    )


def _be_quiet(line: str) -> None:
    pass

"""Begin a run: data, memory check, network, optimizer; fresh, resumed or from another run."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from training import checkpoint
from training.averaging import AveragedWeights
from training.checkpoint import RunState
from training.config import TrainConfig
from training.data.augment import Normalize, channel_statistics, to_channels
from training.data.dataset import DataError, ImageData, LoadOptions, Split, load_data
from training.droppath import Droppath
from training.errors import TrainingError
from training.needs import estimate_memory, free_bytes, say_fitting
from training.networks.fast import WhiteningStem
from training.networks.network import NetworkOptions, scale_values
from training.networks.registry import AdaptiveNetwork, build_network
from training.optim import build_optimizer
from training.processes import Processes
from training.step import Trainer

_RECORDED_PACKAGES = ("adaresnet", "torch", "numpy", "pillow", "datasets")
_WHITENED_IMAGES = 5000  # airbench's number
_WORTH_COMPILING_STEPS = 1500

Say = Callable[[str], None]


def load_run_data(config: TrainConfig, say: Say) -> ImageData:
    """Read the data that a configuration names.

    Raises:
        DataError: It can't be read.
    """
    limit = None if config.memory_gb is None else int(config.memory_gb * 1e9)
    options = LoadOptions(
        bad_files=config.bad_files,
        memory_bytes=limit,
        workers=config.workers,
        image_column=config.image_column,
        label_column=config.label_column,
    )
    return load_data(config.data, config.image_px, config.resize, config.seed, options, say)


def load_data_of(state: RunState, source: str | None, say: Say) -> ImageData:
    """Read the data of a run as the run read it.

    Args:
        state: The run.
        source: Where the data is now; None: where it was in training.
        say: Receives lines that a person should read.

    Raises:
        DataError: It can't be read.
    """
    changes = {"data": source or state.config.data, "image_px": state.image_px}
    try:
        return load_run_data(state.config.model_copy(update=changes), say)
    except DataError as error:
        raise DataError(f"{error}; --data says where the data is now") from error


def start_run(
    config: TrainConfig, data: ImageData, processes: Processes, say: Say
) -> tuple[RunState, Trainer]:
    """Make fresh or resumed state, and the objects that go with it.

    Raises:
        TrainingError: The run can't start as configured, or needs more memory than there is.
        CheckpointError: ``config.resume`` or ``config.start_from`` and there is nothing there.
    """
    tensors: dict[str, Tensor] = {}
    if config.resume:
        state, tensors = _resumed(config, data)
    else:
        if checkpoint.checkpoint_path(config.out).is_file():
            raise TrainingError(
                f"{config.out} holds a run already: add --resume, or choose another --out"
            )
        state = _fresh(config, data, processes)
    state = _shared(state, processes, say)
    check_memory(state, data, processes, say)
    torch.manual_seed(config.seed)
    network = network_of(state)
    normalize = Normalize(state.mean, state.std)
    if not tensors:
        _first_weights(config, network, data, normalize, grey=state.grey)
        state = state.model_copy(update={"scales_at_start": scale_values(network.named_blocks())})
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = network.to(processes.device)
    optimizer = build_optimizer(network, config)
    averaged = AveragedWeights(network, config.ema) if config.ema else None
    if tensors:
        checkpoint.restore_network(network, tensors)
        checkpoint.restore_optimizer(optimizer, network, tensors)
        if averaged is not None:
            checkpoint.restore_averaged(averaged.network, tensors)
    model: nn.Module = processes.wrap(network, some_unused=config.droppath != "none")
    if _compiles(config, state.train_images, processes.device):
        model = torch.compile(model)  # type: ignore[assignment]
    trainer = Trainer(
        config=config,
        network=network,
        model=model,
        normalize=normalize.to(processes.device),
        optimizer=optimizer,
        droppath=Droppath(network, config),
        averaged=averaged,
        scaler=torch.amp.GradScaler(processes.device.type, enabled=config.precision == "float16"),
        processes=processes,
    )
    return state, trainer


def network_of(state: RunState) -> AdaptiveNetwork:
    """Build the network that a run trains, with fresh weights.

    Raises:
        TrainingError: There is no such network, or not with these options.
    """
    config = state.config
    try:
        options = NetworkOptions(
            channels=1 if state.grey else 3,
            classes=len(state.class_names),
            image_px=state.image_px,
            width=config.width,
            scales=config.scales,
            shortcut=config.shortcut,
            zero_gamma=config.zero_gamma,
        )
        return build_network(config.network, options)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def check_memory(state: RunState, data: ImageData, processes: Processes, say: Say) -> None:
    """State what the run needs, and refuse what can't fit.

    Raises:
        TrainingError: More than there is.
    """
    with torch.device("meta"):
        network = network_of(state)
    config, device = state.config, processes.device
    held = data.train.pixels.nbytes if isinstance(data.train, Split) else 0
    need = estimate_memory(
        config,
        network,
        (1 if state.grey else 3, state.image_px, state.image_px),
        held,
        processes.count,
    )
    free = free_bytes(device)
    if free is not None and device.type == "cpu":
        free //= processes.on_machine
    each = " a process" if processes.count > 1 else ""
    known = "" if free is None else f"; {free / 1e9:.1f} GB are free{each}"
    say(f"needs {need}{each}{known}")
    if free is not None and device.type == "cpu":
        free += held  # the pixels are there already, and out of what is free
    if free is not None and need.total > free:
        raise TrainingError(
            f"this run needs {need}{each}, and {free / 1e9:.1f} GB are free;"
            f" {say_fitting(need, free, config, processes.count)}"
        )


def _shared(state: RunState, processes: Processes, say: Say) -> RunState:
    """The state with the number of processes that go on with it.

    Raises:
        TrainingError: A batch can't be shared equally.
    """
    count, images = processes.count, state.config.batch_size
    if images % count:
        raise TrainingError(
            f"a batch of {images} can't be shared equally by {count} processes: make --batch-size"
            f" a multiple of {count}"
        )
    if state.processes != count:
        say(f"{state.processes} processes began this run and {count} go on: other random numbers")
    return state.model_copy(update={"processes": count})


def _compiles(config: TrainConfig, images: int, device: torch.device) -> bool:
    """Compiling takes a minute or two, and pays on a GPU only."""
    if config.droppath != "none":
        if config.compile == "on":
            raise TrainingError(
                "--compile does not go with --droppath: every step is another graph"
            )
        return False
    if config.compile == "auto":
        steps = config.epochs * images // config.batch_size
        return device.type == "cuda" and steps > _WORTH_COMPILING_STEPS
    return config.compile == "on"


def _fresh(config: TrainConfig, data: ImageData, processes: Processes) -> RunState:
    if config.normalization == "unit":
        channels = 1 if data.grey else 3
        mean, std = [0.0] * channels, [1.0] * channels
    else:
        mean, std = channel_statistics(data.train, grey=data.grey)
    return RunState(
        config=config,
        data_name=data.name,
        data_digest=data.digest,
        test_name=data.test_name,
        class_names=data.class_names,
        grey=data.grey,
        image_px=data.train.image_px,
        train_images=len(data.train),
        mean=mean,
        std=std,
        device=processes.device.type,
        processes=processes.count,
        versions={"python": platform.python_version()}
        | {name: metadata.version(name) for name in _RECORDED_PACKAGES}
        | _commit(),
        started_from=_origin(config),
    )


def _resumed(config: TrainConfig, data: ImageData) -> tuple[RunState, dict[str, Tensor]]:
    state, tensors = checkpoint.load_checkpoint(config.out)
    if state.config.portable() != config.portable() or state.data_digest != data.digest:
        what = "settings" if state.data_digest == data.digest else "data"
        changed = [
            f"--{name.replace('_', '-')} was {old}"
            for name, old in state.config.portable().items()
            if old != config.portable()[name]
        ]
        raise TrainingError(
            f"the checkpoint in {config.out} was made with other {what}"
            f"{' (' + ', '.join(changed) + ')' if changed else ''}; resume with the same, or train"
            " into another --out"
        )
    return state.model_copy(update={"config": config}), tensors


def _first_weights(
    config: TrainConfig,
    network: AdaptiveNetwork,
    data: ImageData,
    normalize: Normalize,
    *,
    grey: bool,
) -> None:
    """Whiten a stem that wants it, and take another run's weights where asked."""
    for module in network.modules():
        if isinstance(module, WhiteningStem):
            first = next(iter(data.train.chunks()))[:_WHITENED_IMAGES]
            module.whiten(normalize(to_channels(first, grey=grey)))
    if config.start_from is not None:
        _, tensors = checkpoint.load_checkpoint(config.start_from)
        try:
            checkpoint.restore_averaged(network, tensors)
        except checkpoint.CheckpointError as error:
            raise TrainingError(f"--start-from {config.start_from}: {error}") from None


def _origin(config: TrainConfig) -> str | None:
    """The run that this one takes its first weights from, by the hash of its configuration."""
    if config.start_from is None:
        return None
    state, _ = checkpoint.load_checkpoint(config.start_from)
    return f"{state.config.stable_hash()}, {state.epochs_done} epochs"


def _commit() -> dict[str, str]:
    """The commit of this code, where it runs from a git checkout."""
    here = Path(__file__).parent
    git = shutil.which("git")
    if git is None:
        return {}
    command = [git, "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        tracked = subprocess.run(  # noqa: S603
            [git, "-C", str(here), "ls-files", "--error-unmatch", "start.py"],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git": told.stdout.strip()} if tracked.returncode == 0 else {}


def check_writable(out: Path) -> None:
    """Find out before the first epoch and not after it that nothing can be saved.

    Raises:
        TrainingError: The folder can't be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise TrainingError(f"--out {out} can't be written: {error.strerror}") from None


def choose_device(config: TrainConfig) -> torch.device:
    """The device that one process trains on.

    Raises:
        TrainingError: It was asked for and is not there, or can't do what was asked of it.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise TrainingError(
            "--device cuda was asked for, but PyTorch finds no CUDA device; use --device cpu"
        )
    device = torch.device("cuda" if available and config.device != "cpu" else "cpu")
    if config.precision == "float16" and device.type == "cpu":
        raise TrainingError("--precision float16 needs a GPU; a CPU takes bfloat16 or float32")
    return device

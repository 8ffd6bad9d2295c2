"""Every network, each kind with every granularity: trained, exported, served, the same answers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.engine.session import Session, SessionOptions
from tests.conftest import Server, draw, serving, tiny_config
from training.checkpoint import load_checkpoint, restore_network, save_checkpoint
from training.config import TrainConfig
from training.data.augment import Normalize
from training.data.dataset import ImageData
from training.evaluate import predict_logits
from training.export.pipeline import ExportRequest, export_checkpoint
from training.loop import Run, train_epoch
from training.networks.network import scale_values
from training.networks.registry import NETWORKS
from training.processes import Processes
from training.start import load_run_data, network_of, start_run

GRANULARITIES = ("fixed", "unified", "block_type", "stage", "block", "channel")
PLACEMENTS = ("shortcut", "branch", "both")
# First value, bound and optimizer, for variety along the grid.
VARIETY = (
    {"scale_init": "one"},
    {"scale_init": "constant", "scale_value": -0.5, "optimizer": "adamw"},
    {"scale_init": "normal", "scale_value": 1.0, "scale_std": 0.1, "optimizer": "keras_adam"},
    {"scale_init": "constant", "scale_value": 0.5, "scale_bound": "softplus"},
    {"scale_init": "constant", "scale_value": 0.5, "scale_bound": "tanh"},
)
# They differ from another one in depth or width only, which has every granularity; so two each do.
# The graph of every network with every granularity is tested in export/test_graph.py.
ALIKE = {
    *("resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet34", "resnet34-cifar", "resnet101", "resnet152", "resnet101-cifar", "resnet152-cifar"),
    *("wrn-16-8", "wrn-28-10", "wrn-40-4", "resnext29-16x64d"),
}
# One of each family, to go through a running server.
FAMILIES = {
    "resnet20": "block",
    "resnet18": "channel",
    "resnet50-cifar": "stage",
    "wrn-16-4": "channel",
    "resnext29-8x64d": "block_type",
    "resnext50-32x4d": "block",
    "fast8": "unified",
    "paper8": "block",
    "keras-resnet50": "block_type",
    "first-upload": "channel",
}
PX = 16


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of pictures: 4 training and 2 test pictures each."""
    root = tmp_path_factory.mktemp("pairs") / "pairs"
    rng = np.random.default_rng(1)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("blue", "red"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                draw(name, rng, (PX, PX)).save(root / split / name / f"{index}.png")
    return root


def config_of(folder: Path, out: Path, name: str, granularity: str) -> TrainConfig:
    number = 7 * list(NETWORKS).index(name) + 4 * GRANULARITIES.index(granularity)
    changes: dict[str, object] = {
        "network": name,
        "granularity": granularity,
        "placement": PLACEMENTS[number % len(PLACEMENTS)],
        "width": 0.05,
        "epochs": 1,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "clip_norm": 1.0,  # batch norm over four pixels makes gradients of a hundred layers large
        **VARIETY[number % len(VARIETY)],
    }
    return tiny_config(folder, out, **changes)


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    """The pictures, decoded once for all networks."""
    config = config_of(folder, tmp_path_factory.mktemp("none"), "resnet8", "block")
    return load_run_data(config, quiet)


def trained(config: TrainConfig, data: ImageData) -> None:
    """What ``fit`` does in an epoch of two steps, with data that is there already."""
    state, trainer = start_run(config, data, Processes(0, 1, torch.device("cpu")), quiet)
    run = Run(trainer, data, None, quiet, lambda: False)
    before = [p.clone() for p in trainer.network.parameters()]
    totals, steps = train_epoch(0, run)
    assert steps == 2
    assert bool(totals.isfinite().all())
    after = list(trainer.network.parameters())
    moved = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert moved > 0.25 * len(before)  # not all: in so narrow a network some ReLUs pass nothing on
    now, first = scale_values(trainer.network.named_blocks()), state.scales_at_start
    assert any(now[name] != first[name] for name in first) is (config.granularity != "fixed")
    save_checkpoint(state, trainer.network, trainer.optimizer, None)


def pictures(count: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(3).integers(0, 256, (count, PX, PX, 3), dtype=np.uint8)


def answers(run: Path) -> torch.Tensor:
    """PyTorch's logits, from the checkpoint."""
    state, tensors = load_checkpoint(run)
    network = network_of(state)
    restore_network(network, tensors)
    pixels = torch.from_numpy(pictures())
    return predict_logits(network, Normalize(state.mean, state.std), pixels, grey=state.grey)


GRID = [
    (name, granularity)
    for number, name in enumerate(NETWORKS)
    for granularity in (GRANULARITIES[number % 3 :: 3] if name in ALIKE else GRANULARITIES)
]


@pytest.mark.parametrize(("name", "granularity"), GRID)
def test_trained_exported_and_served(name, granularity, folder, data, tmp_path):
    config = config_of(folder, tmp_path / "run", name, granularity)
    trained(config, data)
    result = export_checkpoint(ExportRequest(config.out, name, tmp_path / "models"), quiet)
    session = Session(result.path, SessionOptions("cpu"))
    served, expected = session.run(pictures()), answers(config.out)
    logit_range = float(expected.max() - expected.min())
    assert np.abs(served.logits - expected.numpy()).max() <= 1e-4 * max(logit_range, 1e-2)
    softmax = torch.softmax(expected, dim=1).numpy()
    assert np.abs(served.probabilities - softmax).max() <= 1e-4
    assert set(result.metadata.labels) == {"blue", "red"}
    assert result.metadata.architecture is not None
    assert result.metadata.architecture.network == name


@pytest.fixture(scope="module")
def families(
    folder: Path, data: ImageData, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    """A running server over one network of each family, and the folder of their runs."""
    root = tmp_path_factory.mktemp("families")
    for name, granularity in FAMILIES.items():
        config = config_of(folder, root / "runs" / name, name, granularity)
        trained(config, data)
        export_checkpoint(ExportRequest(config.out, name, root / "models"), quiet)
    with serving(root / "models", root) as server:
        yield server, root / "runs"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_running_server_answers_what_pytorch_does(name, families):
    server, runs = families
    files = []
    for pixels in pictures():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files.append(("images", ("picture.png", buffer.getvalue())))
    with server.client() as client:
        answer = client.post("/v1/classify", params={"model": name, "top_k": 2}, files=files)
        described = client.get(f"/v1/models/{name}").json()
    assert answer.status_code == 200, answer.text
    expected = torch.softmax(answers(runs / name), dim=1)
    results = answer.json()["results"]
    assert len(results) == len(expected)
    for result, probabilities in zip(results, expected.tolist(), strict=True):
        found = {p["class_id"]: p["probability"] for p in result["predictions"]}
        assert found == pytest.approx(dict(enumerate(probabilities)), abs=1e-4)
    state, _ = load_checkpoint(runs / name)
    shown = {
        f"{scale['block']}.{scale['placement']}": scale["value"]
        for scale in described["shortcut_scales"]
    }
    assert shown.keys() == state.scales_at_start.keys()

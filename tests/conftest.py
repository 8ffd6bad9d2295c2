"""Shared fixtures: small data drawn here, a network trained on it in seconds, a real server."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import hypothesis
import numpy as np
import pytest
from PIL import Image

from service.cli import main
from training.config import TrainConfig
from training.export.pipeline import ExportRequest, ExportResult, export_checkpoint
from training.loop import fit

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
REAL_DATA = Path(os.environ.get("ADARESNET_TEST_DATA", ROOT.parent / "shared" / "data"))
ADARESNET = Path(sys.executable).parent / "adaresnet"

CLASSES = ("blue", "green", "red")

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# Tests look for words in the log, and wait for no load balancers.
LOG_TO_READ = {"ADARESNET_LOG_FORMAT": "text", "ADARESNET_DRAIN_DELAY_S": "0"}
# Nobody on the internet is asked, and to read whom to trust there takes each client 20 ms.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.devnull


def draw(name: str, rng: np.random.Generator, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A noisy picture in which one colour channel is bright: easy to learn in seconds."""
    pixels = rng.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
    channel = {"red": 0, "green": 1, "blue": 2}[name]
    pixels[..., channel] += rng.integers(90, 160, dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of labelled PNGs: 3 classes, 64 training and 16 test pictures each."""
    root = tmp_path_factory.mktemp("data") / "colors"
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 16)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                draw(name, rng).save(folder / f"{index}.png")
    return root


def tiny_config(data: Path, out: Path, **changes: object) -> TrainConfig:
    """A ResNet-8 on 16 px pictures: two epochs take a second or two."""
    values: dict[str, object] = {
        "data": str(data),
        "out": out,
        "network": "resnet8",
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.05,
        "shift_px": 1,
        "tensorboard": False,
        "device": "cpu",
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def trained_run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run on the drawn pictures."""
    out = tmp_path_factory.mktemp("runs") / "colors"
    fit(tiny_config(image_folder, out, epochs=4), lambda line: None)
    return out


@dataclass(frozen=True)
class Exported:
    """A model repository with one freshly exported model in it."""

    repository: Path
    result: ExportResult


@pytest.fixture(scope="session")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The trained run, exported as ``colors`` version 1."""
    repository = tmp_path_factory.mktemp("repository")
    request = ExportRequest(trained_run, "colors", repository)
    return Exported(repository, export_checkpoint(request, lambda line: None))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Server:
    """A real ``adaresnet serve`` process."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)


@contextlib.contextmanager
def serving(models: Path, folder: Path, *flags: str) -> Iterator[Server]:
    """Start a server over a repository and wait until it is ready."""
    port = free_port()
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ADARESNET, "serve", "--models", models, "--port", str(port), *flags],
            stderr=output,
            stdout=output,
            env={**LOG_TO_READ, **os.environ},
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(server: Server, timeout_s: float = 60) -> None:
    """Poll /readyz; fail with the server's log when it dies or takes too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/readyz").status_code == 200:
                return
        time.sleep(0.05)
    pytest.fail(f"the server did not get ready:\n{server.log.read_text()}")


@pytest.fixture(scope="session")
def server(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over the exported repository, shared by tests that don't change it."""
    with serving(exported.repository, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of the shared server."""
    with server.client() as connected:
        yield connected


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process, where a process is not what is tested.

    It returns the exit status, and what was written to standard output and standard error.
    """

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as ended:  # as argparse ends it
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded randomness."""
    return np.random.default_rng(7)

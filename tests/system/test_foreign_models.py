"""Models that other exporters wrote, imported by the command and served by a real process."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import Server, serving
from tests.service.foreign_models import Net, keras_like, torch_dynamo, torch_legacy
from tests.system.test_processes import adaresnet

Expected = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def with_torch(net: Net) -> Expected:
    def expected(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        normal = (pixels / 255 - IMAGENET[0]) / IMAGENET[1]
        with torch.no_grad():
            logits = net(torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32)))
        probabilities: NDArray[np.float64] = logits.softmax(1).double().numpy()
        return probabilities

    return expected


def grey(net: Net) -> Expected:
    def expected(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        greys = np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in pixels])
        with torch.no_grad():
            logits = net(torch.from_numpy((greys[:, None] / 255).astype(np.float32)))
        probabilities: NDArray[np.float64] = logits.softmax(1).double().numpy()
        return probabilities

    return expected


def keras(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Expected:
    def expected(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        powers = np.exp((pixels / 255).mean((1, 2)) @ weight + bias)
        probabilities: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
        return probabilities

    return expected


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="module")
def foreign(root: Path) -> dict[str, tuple[int, Expected]]:
    """Imported models by name: side in pixels, and what they should give for pixels."""
    made = {
        "legacy": (224, with_torch(torch_legacy(root / "legacy.onnx"))),
        "dynamo": (224, with_torch(torch_dynamo(root / "dynamo.onnx"))),
        "grey": (32, grey(torch_legacy(root / "grey.onnx", channels=1, size=32, batch=False))),
        "keras": (96, keras(*keras_like(root / "keras.onnx", shape=("n", 96, 96, 3)))),
    }
    assert (root / "dynamo.onnx.data").is_file()  # weights beside the model, as is its default
    for name in made:
        done = adaresnet(
            "import", root / f"{name}.onnx", "--name", name, "--models", root / "models"
        )
        assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def running(foreign, root):
    with serving(root / "models", root, "--max-batch-size", "8") as server:
        yield server


def probabilities(answer: httpx.Response) -> NDArray[np.float64]:
    assert answer.status_code == 200, answer.text
    return np.array(
        [
            [
                row["probability"]
                for row in sorted(result["predictions"], key=lambda r: r["class_id"])
            ]
            for result in answer.json()["results"]
        ]
    )


@pytest.mark.parametrize("name", ["legacy", "dynamo", "grey", "keras"])
def test_answers_are_those_of_the_network(foreign, running: Server, name, rng):
    side, expected = foreign[name]
    pixels = rng.integers(0, 256, (11, side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    with running.client() as client:
        answer = client.post(
            f"/v1/classify?model={name}",
            content=buffer.getvalue(),
            headers={"content-type": "application/x-npy"},
        )
        assert np.abs(probabilities(answer) - expected(pixels)).max() < 1e-5
        buffer = io.BytesIO()
        Image.fromarray(pixels[0]).save(buffer, "PNG")
        answer = client.post(f"/v1/classify?model={name}", content=buffer.getvalue())
        assert np.abs(probabilities(answer) - expected(pixels[:1])).max() < 1e-5
        info = client.get(f"/v1/models/{name}").json()
    assert info["input"]["height"] == info["input"]["width"] == side
    assert info["input"]["resize"] == "center_crop, bilinear"
    assert len(info["versions"][0]["config_digest"]) == 64

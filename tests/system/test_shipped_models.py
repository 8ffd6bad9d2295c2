"""The shipped models do over HTTP what their card says, on the whole test set."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from service.metadata import Resize
from tests.conftest import MODELS, REAL_DATA, serving
from training.data.dataset import load_data

CARD = (MODELS / "README.md").read_text()
LEAST = {"cifar10": 0.905, "mnist": 0.994}
_IMAGES_A_REQUEST = 500


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def card_accuracy(name: str) -> str:
    """The figure in the model's row of the card's table, as printed."""
    match = re.search(rf"^\| `{name}` \|.*?\*\*([0-9.]+ %)\*\*", CARD, re.MULTILINE)
    assert match is not None, f"models/README.md has no row for {name}"
    return match[1]


@pytest.mark.data
@pytest.mark.parametrize("name", LEAST)
def test_accuracy_over_http(name, tmp_path):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"no {name} in {REAL_DATA}")
    with serving(MODELS, tmp_path) as server, server.client() as client:
        model = client.get(f"/v1/models/{name}").json()
        data = load_data(str(REAL_DATA / name), model["input"]["height"], Resize(), seed=0)
        test = data.test.in_memory()
        predicted = []
        for chunk in np.array_split(test.pixels.numpy(), len(test) // _IMAGES_A_REQUEST):
            files = [("images", ("x.png", png(pixels))) for pixels in chunk]
            answer = client.post(f"/v1/classify?model={name}&top_k=1", files=files)
            predicted += [r["predictions"][0]["class_id"] for r in answer.json()["results"]]
    accuracy = float((np.array(predicted) == test.labels.numpy()).mean())
    assert accuracy == pytest.approx(model["accuracy"]["top1"], abs=1e-9)
    assert accuracy >= LEAST[name]
    assert f"{accuracy * 100:.2f} %" == card_accuracy(name)

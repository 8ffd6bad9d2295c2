"""Damaged and hostile files, dropped into the repository of a real process that goes on serving."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import helper

from service.engine.session import Session, SessionOptions
from tests.conftest import MODELS, Server, serving
from tests.service.engine.test_onnx_file import external, model
from tests.service.engine.test_probe import integers, means
from tests.service.foreign_models import torch_legacy

MNIST = MODELS / "mnist" / "1" / "model.onnx"
PICTURE = b"P6 8 8 255 " + bytes(range(192))
FILES = 200
TOLERANCE = Session(MNIST, SessionOptions("cpu")).metadata.golden.tolerance  # type: ignore[union-attr]
CONFIG = "[normalization]\n[output]\nkind = 'logits'\n"


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    # Weights are most of a file; half of the flips go where its structure is.
    ends = rng.random() < 0.5
    for _ in range(rng.integers(1, 20)):
        at = int(rng.integers(0, min(len(data), 4000)) if ends else rng.integers(0, len(data)))
        changed[at if rng.random() < 0.5 else len(data) - 1 - at] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def random_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(data))) if rng.random() < 0.7 else 0
    noise = rng.bytes(int(rng.integers(1, 300)))
    return data[:start] + noise + data[start + len(noise) :] if start else noise


def splice(data: bytes, rng: np.random.Generator) -> bytes:
    """Move a part of the file, or put in a field that protobuf would take."""
    at = int(rng.integers(0, min(len(data), 4000)))
    if rng.random() < 0.5:
        begin = int(rng.integers(0, len(data)))
        return data[:at] + data[begin : begin + int(rng.integers(1, 500))] + data[at:]
    number, size = int(rng.integers(1, 26)), int(rng.integers(0, 100))
    whole = bytes([0x80 | (number << 3 & 0x7F) | 2, number >> 4, size]) + rng.bytes(size)
    return data + whole if rng.random() < 0.5 else data[:at] + whole + data[at:]


MUTATIONS: list[Callable[[bytes, np.random.Generator], bytes]] = [
    flip_bits, truncate, random_bytes, splice
]  # fmt: skip


class Traffic(threading.Thread):
    """Asks the good versions, over and over, and notes every answer that is not 200."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.stop = threading.Event()
        self.answers = 0
        self.failures: list[str] = []

    def run(self) -> None:
        with self.server.client() as client:
            while not self.stop.is_set():
                for name in ("mnist", "foreign"):
                    try:
                        answer = client.post(
                            f"/v1/classify?model={name}&version=1", content=PICTURE
                        )
                        if answer.status_code != 200:
                            self.failures.append(answer.text)
                    except httpx.HTTPError as error:
                        self.failures.append(repr(error))
                    self.answers += 1
                time.sleep(0.02)


@pytest.fixture
def models(tmp_path) -> Path:
    """Two good models, one of our own and one foreign."""
    root: Path = tmp_path / "models"
    for name in ("mnist", "foreign"):
        (root / name / "1").mkdir(parents=True)
    shutil.copy(MNIST, root / "mnist" / "1")
    torch_legacy(root / "foreign" / "1" / "model.onnx", size=32)
    (root / "foreign" / "config.toml").write_text(CONFIG)
    return root


def wait_for(client: httpx.Client, name: str, count: int) -> list[dict[str, object]]:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        versions: list[dict[str, object]] = client.get(f"/v1/models/{name}").json()["versions"]
        if len(versions) == count:
            return versions
        time.sleep(0.2)
    pytest.fail(f"{len(versions)} of {count} versions of {name} were looked at")


def test_two_hundred_mutated_files_harm_nothing(models, tmp_path, rng):
    with serving(models, tmp_path, "--repository-poll-s", "0.1") as server:
        traffic = Traffic(server)
        traffic.start()
        for name in ("mnist", "foreign"):
            good = (models / name / "1" / "model.onnx").read_bytes()
            for version in range(2, 2 + FILES // 2):
                aside = tmp_path / "aside"
                aside.mkdir()
                mutate = MUTATIONS[version % len(MUTATIONS)]
                (aside / "model.onnx").write_bytes(mutate(good, rng))
                aside.rename(models / name / str(version))
        with server.client() as client:
            for name in ("mnist", "foreign"):
                for entry in wait_for(client, name, 1 + FILES // 2):
                    check(client, name, entry)
            assert client.get("/readyz").status_code == 200
        traffic.stop.set()
        traffic.join()
        assert server.process.poll() is None
        assert traffic.failures == []
        assert traffic.answers > 20
        assert "Traceback" not in server.log.read_text()


def check(client: httpx.Client, name: str, version: dict[str, object]) -> None:
    """A version is refused with a reason, or it answers as a classifier does."""
    if not version["ready"]:
        assert len(str(version["error"])) > 20
        assert version["version"] != 1
        return
    if name == "mnist":  # it has passed its golden images
        assert 0 <= float(str(version["golden_difference"])) <= TOLERANCE
    answer = client.post(
        f"/v1/classify?model={name}&version={version['version']}&top_k=99", content=PICTURE
    )
    assert answer.status_code == 200
    rows = answer.json()["results"][0]["predictions"]
    assert abs(sum(row["probability"] for row in rows) - 1) < 1e-3


def test_hostile_files_are_refused_with_a_reason(models, tmp_path):
    hostile = models / "hostile"
    for version in range(1, 5):
        (hostile / str(version)).mkdir(parents=True)
    (hostile / "config.toml").write_text(CONFIG)
    stolen = model(initializer=[external("../../../../etc/passwd")])
    custom = model(helper.make_node("Shell", ["x"], ["x"], domain="com.evil"))
    (hostile / "1" / "model.onnx").write_bytes(stolen.SerializeToString())
    (hostile / "2" / "model.onnx").write_bytes(custom.SerializeToString())
    means(
        helper.make_node("Expand", ["means", "size"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["total"], keepdims=0),
        helper.make_node("Add", ["means", "total"], ["y"]),
        weights=(integers("size", [1 << 16, 1 << 16, 1, 3]),),
        path=hostile / "3" / "model.onnx",
    )
    shutil.copy(models / "foreign" / "1" / "model.onnx", hostile / "4")
    (hostile / "4" / "config.toml").write_text(CONFIG.replace("logits", "probabilities"))
    hostile.rename(tmp_path / "aside")
    poll = ("--repository-poll-s", "0.1")
    with serving(models, tmp_path, *poll) as server, server.client() as client:
        (tmp_path / "aside").rename(hostile)
        deadline = time.monotonic() + 60
        while client.get("/v1/models/hostile").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        errors = [v["error"] for v in client.get("/v1/models/hostile").json()["versions"]]
        assert client.post("/v1/classify?model=hostile", content=PICTURE).status_code == 503
        assert client.get("/readyz").status_code == 200
    for error, words in zip(
        errors,
        [
            "keeps weights in another file, '../../../../etc/passwd'",
            "custom operator 'com.evil::Shell'",
            "needs too much memory",
            "'logits' would be right.",
        ],
        strict=True,
    ):
        assert words in error

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from service.metadata import MODEL_FILE
from training.commands.evaluate import evaluate
from training.report.metrics import Scores


def run(capsys, *words: object) -> tuple[int, str, str]:
    status = evaluate([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def refused(capsys, *words: object, status: int = 1) -> str:
    """Run a command that must fail, in one line."""
    found, out, err = run(capsys, *words, "--device", "cpu")
    assert found == status
    assert out == ""
    assert err.startswith("adaresnet evaluate: ")
    assert len(err.splitlines()) == 1, err
    return err.strip()


def test_the_report(capsys, trained_run):
    status, out, err = run(capsys, trained_run, "--device", "cpu", "--batch-size", "20")
    assert status == 0
    assert err == ""
    assert "on colors, test: 48 images" in out
    assert "top-1 accuracy" in out
    assert "top-5" not in out
    assert "images/s in batches of 20 on cpu" in out
    assert "after a warm-up" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["CLASS", "IMAGES", "PRECISION", "RECALL", "F1"] in rows
    assert [row[1] for row in rows if row and row[0] in ("blue", "green", "red")] == ["16"] * 3


def test_json_and_files(capsys, exported, image_folder, tmp_path):
    out = tmp_path / "new" / "folder"
    model = exported.repository / "colors"
    status, text, err = run(capsys, model, "--data", image_folder, "--out", out, "--json")
    assert status == 0
    assert "wrote confusion.png" in err
    printed = json.loads(text)
    assert json.loads((out / "evaluation.json").read_text()) == printed
    assert printed["format"] == "onnx"
    assert printed["throughput"]["batch_size"] == 48
    assert "main memory" in printed["throughput"]["measured"]
    scores = Scores.model_validate(printed["scores"])
    assert scores.images == 48
    assert sorted(path.name for path in out.iterdir()) == [
        "calibration.png",
        "confusion.png",
        "evaluation.json",
    ]
    for name in ("calibration.png", "confusion.png"):
        with Image.open(out / name) as image:
            image.load()
            assert min(image.size) > 300


def test_models_that_are_none(capsys, tmp_path, exported, image_folder):
    assert "does not exist" in refused(capsys, tmp_path / "gone")
    assert "holds neither" in refused(capsys, tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert "no checkpoint" in refused(capsys, tmp_path / "notes.txt")
    torn = tmp_path / MODEL_FILE
    torn.write_bytes(exported.result.path.read_bytes()[:2000])
    said = refused(capsys, torn, "--data", image_folder)
    assert str(torn) in said
    assert "damaged" in said


def test_data_that_does_not_fit(capsys, tmp_path, trained_run, exported, image_folder):
    assert "--data says where" in refused(capsys, trained_run, "--data", tmp_path / "gone")
    assert "give it with --data" in refused(capsys, exported.result.path, status=2)
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    for blue, split in enumerate(("train", "test")):
        shutil.copytree(other / split / "red", other / split / "yellow")
        for index, picture in enumerate(sorted((other / split / "yellow").iterdir())):
            Image.new("RGB", (16, 16), (255, 255 - index, blue)).save(picture)
    said = refused(capsys, trained_run, "--data", other)
    assert "data's 4 classes are others than the model's 3, from number 4 on: [yellow]" in said


def test_wrong_usage(capsys, trained_run, tmp_path):
    assert "--batch-size is 0" in refused(capsys, trained_run, "--batch-size", "0", status=2)
    for words in (["--split", "dev", trained_run], []):
        with pytest.raises(SystemExit) as caught:
            run(capsys, *words)
        assert caught.value.code == 2
    capsys.readouterr()
    (tmp_path / "file").touch()
    assert "can't be written" in refused(capsys, trained_run, "--out", tmp_path / "file" / "x")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_a_missing_gpu(capsys, kind, trained_run, exported, image_folder):
    model = trained_run if kind == "checkpoint" else exported.result.path
    status, _, err = run(capsys, model, "--data", image_folder, "--device", "cuda")
    assert status == 1
    assert "CUDA" in err
    assert len(err.splitlines()) == 1


def test_what_pytorch_throws_is_one_line(capsys, trained_run, monkeypatch):
    def broken(*args: object) -> None:
        raise RuntimeError("CUDA error: out of luck\nand a stack")

    monkeypatch.setattr("training.report.evaluation.run_split", broken)
    assert refused(capsys, trained_run).endswith("PyTorch failed: CUDA error: out of luck")


@pytest.mark.parametrize("name", ["evaluate", "weights"])
@pytest.mark.parametrize("missing", ["torch", "matplotlib"])
def test_without_its_packages_a_command_says_what_to_install(name, missing, tmp_path):
    script = f"""
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda n, *a: None if n == {missing!r} else real(n, *a)
sys.modules[{missing!r}] = None
from training.commands.{name} import {name}
sys.exit({name}(["somewhere"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 1
    assert done.stderr.endswith("is missing: install adaresnet[train]\n")
    assert len(done.stderr.splitlines()) == 1


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit):
        evaluate(["--help"])
    out = capsys.readouterr().out
    for flag in ("--data", "--split", "--out", "--device", "--batch-size", "--json"):
        assert flag in out

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import CLASSES
from training.data.dataset import DataError, Split
from training.report.errors import ReportError
from training.report.evaluation import (
    EvaluationRequest,
    MissingDataError,
    check_classes,
    evaluate_model,
    read_pixels,
    run_split,
)
from training.report.models import open_model


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def from_checkpoint(trained_run):
    return evaluate_model(EvaluationRequest(trained_run, device="cpu"), quiet)


def test_a_checkpoint_finds_its_own_data(from_checkpoint, trained_run):
    assert from_checkpoint.format == "checkpoint"
    assert from_checkpoint.model == str(trained_run / "checkpoint.safetensors")
    assert (from_checkpoint.data, from_checkpoint.split) == ("colors", "test")
    assert from_checkpoint.notes == []
    scores = from_checkpoint.scores
    assert scores.images == 48
    assert [row.support for row in scores.classes] == [16, 16, 16]
    assert scores.top1 > 0.8


def test_the_export_is_worth_the_same(from_checkpoint, exported, image_folder):
    request = EvaluationRequest(exported.repository / "colors", str(image_folder), device="cpu")
    found = evaluate_model(request, quiet)
    assert found.format == "onnx"
    assert found.scores.top1 == from_checkpoint.scores.top1
    assert found.scores.confusion == from_checkpoint.scores.confusion
    ours, theirs = found.scores, from_checkpoint.scores
    assert ours.expected_calibration_error == pytest.approx(
        theirs.expected_calibration_error, abs=1e-4
    )
    assert ours.log_loss == pytest.approx(theirs.log_loss, abs=1e-4)


def test_training_images_are_called_so(trained_run):
    found = evaluate_model(EvaluationRequest(trained_run, split="train", device="cpu"), quiet)
    assert found.scores.images == 192
    assert found.split == "train"
    assert "trained on these images" in found.notes[0]


def test_data_without_a_test_split_may_hold_training_images(trained_run, image_folder):
    request = EvaluationRequest(trained_run, str(image_folder / "train"), device="cpu")
    found = evaluate_model(request, quiet)
    assert found.split == "held out"
    assert "may have been trained on" in found.notes[0]


def test_onnx_needs_data(exported):
    with pytest.raises(MissingDataError, match="was trained on 'colors', but does not say where"):
        evaluate_model(EvaluationRequest(exported.result.path, device="cpu"), quiet)


def test_classes_must_be_the_model_s():
    check_classes(("a", "b"), ("a", "b"))
    with pytest.raises(
        ReportError, match=r"2 classes are in another order .* \[b, a\]; .* \[a, b\]"
    ):
        check_classes(("a", "b"), ("b", "a"))
    with pytest.raises(
        ReportError, match=r"3 classes .* model's 2, from number 3 on: \[c\]; .* none there"
    ):
        check_classes(("a", "b"), ("a", "b", "c"))
    many = tuple(f"c{n:03}" for n in range(300))
    with pytest.raises(ReportError, match=r"number 100 on: \[x, c100, .* and 196 more\]"):
        check_classes(many, (*many[:99], "x", *many[100:]))


def test_images_come_in_order_and_are_timed_honestly(trained_run):
    pixels = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 16, 16, 3)
    split = Split(pixels.contiguous(), torch.zeros(10, dtype=torch.int64))
    assert [len(part) for part in read_pixels(split, 4)] == [4, 4, 2]
    chosen = torch.cat(list(read_pixels(split, 2, torch.tensor([7, 0, 3]))))
    assert chosen[:, 0, 0, 0].tolist() == [7, 0, 3]
    batches = []

    def answer(part: torch.Tensor) -> np.ndarray:
        batches.append(len(part))
        return part[:, 0, 0, :].float().numpy()

    model = replace(open_model(trained_run, "cpu", 4), answer=answer)
    logits, speed = run_split(model, split, 4)
    assert logits[:, 0].tolist() == list(range(10))
    assert batches[:4] == [4, 4, 4, 2]  # the first is the warm-up
    assert speed.images == sum(batches[1:])
    assert speed.duration_s >= 0.5
    assert speed.images_per_s == pytest.approx(speed.images / speed.duration_s)
    assert speed.batch_size == 4
    empty = Split(pixels[:0], torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="no images"):
        run_split(model, empty, 4)


def test_class_names_are_those_of_the_folder(from_checkpoint):
    assert tuple(row.name for row in from_checkpoint.scores.classes) == CLASSES

from __future__ import annotations

import numpy as np

from training.report.evaluation import Evaluation, Throughput
from training.report.evaluation_text import align, evaluation_report
from training.report.metrics import score


def report(classes: int, threads: int = 1, device: str = "cpu") -> str:
    labels = np.arange(classes)
    logits = np.eye(classes, dtype=np.float32) * 9
    logits[0] = -logits[0]
    scores = score(logits, labels, tuple(f"c{n}" for n in range(classes)))
    speed = Throughput(
        images_per_s=1234.5,
        images=classes,
        duration_s=1.0,
        batch_size=8,
        device=device,
        threads=threads,
    )
    return evaluation_report(
        Evaluation(
            model="m",
            format="onnx",
            data="d",
            split="test",
            notes=["beware"],
            scores=scores,
            throughput=speed,
        )
    )


def test_all_that_is_asked_for():
    lines = report(8).splitlines()
    assert lines[0] == "m on d, test: 8 images"
    assert lines[1] == "note: beware"
    assert "top-1 accuracy     87.50%" in lines
    assert any(line.startswith("top-5 accuracy") for line in lines)
    assert "throughput         1,234 images/s in batches of 8 on cpu, 1 thread" in lines
    assert ["c0", "1", "-", "0.00%", "0.00%"] in [line.split() for line in lines]
    assert lines[-1] == "  c0 taken for c1: 1 (100.0% of c0)"
    assert "2 threads" in report(2, threads=2)
    assert "thread" not in report(2, device="cuda")


def test_of_many_classes_the_worst_are_listed():
    lines = report(101).splitlines()
    heading = lines.index("the 20 of 101 classes with the lowest F1:")
    assert lines[heading + 2].startswith("c0 ")
    assert lines[heading + 22] == ""


def test_columns():
    assert align([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc   d"]

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from service.api.answers import write_answer
from service.engine.predictor import Outcome
from service.engine.ranking import Ranking
from service.engine.repository import ReadyVersion

CLASSES = 1000
# What a writer asks of a version, and no more.
MODEL = cast(
    ReadyVersion,
    SimpleNamespace(
        name="m",
        version=1,
        metadata=SimpleNamespace(labels=[f"class {number}" for number in range(CLASSES)]),
    ),
)


def outcome(images: int, k: int) -> Outcome:
    ids = np.tile(np.arange(k, dtype=np.int32), (images, 1))
    return Outcome(images, Ranking(ids, np.full((images, k), 0.25, np.float32)), {}, 0.0, None)


# The text is made of some thousand classes at a time: none, less, exactly, and more than that.
@pytest.mark.parametrize(
    ("images", "k"), [(0, 1), (3, 2), (5000, 1), (10, 999), (10, 1000), (25, 1000)]
)
def test_every_image_is_answered(images, k):
    results: list[dict[str, Any]] = json.loads(write_answer(MODEL, outcome(images, k)))["results"]
    assert [len(result["predictions"]) for result in results] == [k] * images


def test_a_long_answer_takes_little_more_memory_than_its_text():
    many = outcome(200, CLASSES)
    tracemalloc.start()
    try:
        text = write_answer(MODEL, many)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2.5 * len(text)  # the text and its parts, for a moment

"""Images whose scores are no numbers fail by themselves, and are named by no class."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.api.answers import write_answer, write_lines
from service.bulk.local import classify_here
from service.bulk.rows import row_of, text_of
from service.engine.admission import AdmissionLimits
from service.engine.decoding import DecodingOptions
from service.engine.errors import InvalidImagesError, NotFiniteError
from service.engine.instances import InstanceOptions
from service.engine.plan import PlanOptions
from service.engine.predictor import EngineOptions, Outcome, Predictor
from service.engine.repository import RepositoryOptions
from service.engine.session import SessionOptions
from tests.service.foreign_models import logarithm

CODE = "scores_not_finite"
BLACK, GREY = (b"P5 8 8 255\n" + bytes([level] * 64) for level in (0, 90))


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    folder = tmp_path / "models" / "logarithm" / "1"
    folder.mkdir(parents=True)
    logarithm(folder / "model.onnx")
    instances = InstanceOptions(SessionOptions("cpu"), lanes=1, cpus=1, plan=PlanOptions(8))
    models = RepositoryOptions(tmp_path / "models", None, instances)
    return EngineOptions(models, AdmissionLimits(1000, 2**30), DecodingOptions(threads=1), 30.0)


@pytest.fixture
def predictor(options: EngineOptions) -> Iterator[Predictor]:
    made = Predictor(options)
    made.repository.refresh()
    yield made
    made.close()


def counted(predictor: Predictor) -> dict[tuple[str, str], float]:
    """Images by outcome and reason."""
    return {
        (sample.labels["outcome"], sample.labels["reason"]): sample.value
        for sample in predictor.metrics.samples()
        if sample.name == "adaresnet_images_total" and sample.value
    }


def test_one_image(predictor):
    model = predictor.repository.find(None, None)
    with pytest.raises(NotFiniteError, match="'logarithm'"):
        asyncio.run(predictor.predict(model, [BLACK], 2, skip_errors=False))
    assert counted(predictor) == {("failed", CODE): 1}
    outcome = asyncio.run(predictor.predict(model, [BLACK], 2, skip_errors=True))
    assert counted(predictor) == {("failed", CODE): 2}
    (result,) = json.loads(write_answer(model, outcome))["results"]
    assert result["error"]["code"] == CODE


@pytest.mark.parametrize("lines", [False, True])
def test_some_of_many(predictor, lines):
    model = predictor.repository.find(None, None)
    files = [GREY, b"junk", BLACK, GREY, BLACK] * 40  # more than are queued together
    told: list[Outcome] = []

    async def tell(outcome: Outcome) -> None:
        told.append(outcome)

    if lines:
        asyncio.run(predictor.predict_in_parts(model, files, 1, tell))
        text = b"".join(write_lines(model, outcome) for outcome in told)
        results = [json.loads(line) for line in text.splitlines()]
    else:
        outcome = asyncio.run(predictor.predict(model, files, 1, skip_errors=True))
        results = json.loads(write_answer(model, outcome))["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [None, "image_undecodable", CODE, None, CODE] * 40
    assert all(np.isfinite(one["predictions"][0]["probability"]) for one in results[::5])
    assert counted(predictor) == {
        ("answered", ""): 80,
        ("failed", CODE): 80,
        ("failed", "image_undecodable"): 40,
    }


def test_a_request_that_may_not_skip_them_fails_and_every_image_is_counted_once(predictor):
    model = predictor.repository.find(None, None)
    with pytest.raises(InvalidImagesError) as caught:
        asyncio.run(predictor.predict(model, [GREY, BLACK, GREY] * 100, 1, skip_errors=False))
    assert {error.code for error in caught.value.errors.values()} == {CODE}
    assert set(caught.value.errors) <= set(range(1, 300, 3))
    found = counted(predictor)
    assert found["failed", CODE] == len(caught.value.errors)
    assert sum(found.values()) == 300


def test_files_behind_such_a_picture_are_classified(options):
    results = list(classify_here(options, lambda one: one.repository.find(None, None),
                                 [GREY, BLACK, GREY], 1))  # fmt: skip
    rows = [row_of(result) for result in results]
    assert [row["label"] is None for row in rows] == [False, True, False]
    assert "not finite" in (rows[1]["error"] or "")
    assert [text_of(result).endswith("%") for result in results[::2]] == [True, True]

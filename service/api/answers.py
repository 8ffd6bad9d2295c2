"""Write the answer to a classification; the service and the command line share it."""

from __future__ import annotations

from typing import Any

import orjson

from service.engine.errors import ImageError
from service.engine.predictor import Outcome
from service.engine.ranking import Ranking
from service.engine.repository import ReadyVersion


def image_problem(error: ImageError, index: int) -> dict[str, Any]:
    """What is wrong with one image of a request."""
    return {"index": index, "code": error.code, "detail": error.detail, "hint": error.hint}


def write_answer(model: ReadyVersion, outcome: Outcome) -> bytes:
    """JSON as ``service.api.schemas.ClassifyResponse`` describes it."""
    good = iter(_predictions(outcome.ranking, model) if outcome.ranking else ())
    body = {
        "model": model.name,
        "version": model.version,
        "results": [
            {"error": image_problem(outcome.errors[index], index)}
            if index in outcome.errors
            else {"predictions": next(good)}
            for index in range(outcome.count)
        ],
    }
    # Not by pydantic; and numpy's float32 come out in their own shortest form.
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _predictions(ranking: Ranking, model: ReadyVersion) -> list[list[dict[str, Any]]]:
    labels = model.session.metadata.labels
    return [
        [
            {"class_id": class_id, "label": labels[class_id], "probability": probability}
            for class_id, probability in zip(ids, probabilities, strict=True)
        ]
        for ids, probabilities in zip(
            ranking.class_ids.tolist(), ranking.probabilities, strict=True
        )
    ]

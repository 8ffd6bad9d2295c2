"""``POST /v1/classify``: images in, ranked classes out."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.bodies import read_images
from service.api.errors import image_problem
from service.api.schemas import CLASSIFY_BODY, ClassifyQuery, ClassifyResponse, Problem
from service.engine.errors import InvalidImagesError
from service.engine.predictor import Decoded, Predictor
from service.engine.ranking import Ranking
from service.engine.repository import ReadyVersion
from service.settings import Settings

router = APIRouter(tags=["classify"])

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Empty or malformed body"},
    404: {"model": Problem, "description": "No such model or version"},
    413: {"model": Problem, "description": "Body too large, or too many images"},
    415: {"model": Problem, "description": "Content type or encoding that is not read"},
    422: {"model": Problem, "description": "Undecodable images, or a wrong parameter"},
    503: {"model": Problem, "description": "Overloaded or not ready; see Retry-After"},
    504: {"model": Problem, "description": "No answer within the deadline"},
}


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    response_model_exclude_none=True,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": CLASSIFY_BODY},
    summary="Classify one image or many",
)
async def classify(request: Request, query: Annotated[ClassifyQuery, Query()]) -> Response:
    """Name the most probable classes of each image.

    The body is one image as it is, several files as multipart/form-data, base64 in JSON, or pixels
    as .npy. The answer always has the same form: one result an image, in order.
    """
    predictor: Predictor = request.app.state.predictor
    settings: Settings = request.app.state.settings
    model = predictor.find(query.model, query.version)
    images = await read_images(request, settings)
    if isinstance(images, np.ndarray):
        decoded = await predictor.fit(model, images)
    else:
        decoded = await predictor.decode(model, images)
    if decoded.errors and query.on_error == "fail":
        if decoded.count == 1:
            raise decoded.errors[0]
        raise InvalidImagesError(decoded.errors, of=decoded.count)
    results: list[dict[str, Any]] = []
    if len(decoded.pixels):
        ranking = await predictor.classify(model, decoded.pixels, query.top_k)
        results = _predictions(ranking, model)
    body = {
        "model": model.name,
        "version": model.version,
        "results": _with_errors(results, decoded),
    }
    # Serialised here, not by pydantic; numpy's float32 comes out in its own shortest form.
    return Response(
        orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
    )


def _predictions(ranking: Ranking, model: ReadyVersion) -> list[dict[str, Any]]:
    labels = model.session.metadata.labels
    return [
        {
            "predictions": [
                {"class_id": class_id, "label": labels[class_id], "probability": probability}
                for class_id, probability in zip(ids, probabilities, strict=True)
            ]
        }
        for ids, probabilities in zip(
            ranking.class_ids.tolist(), ranking.probabilities, strict=True
        )
    ]


def _with_errors(results: list[dict[str, Any]], decoded: Decoded) -> list[dict[str, Any]]:
    """Put the errors of bad images back at their places."""
    if not decoded.errors:
        return results
    good = iter(results)
    return [
        {"error": image_problem(decoded.errors[index], index)}
        if index in decoded.errors
        else next(good)
        for index in range(decoded.count)
    ]

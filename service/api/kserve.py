"""``POST /v1/models/{name}:predict``: KServe's V1 protocol, which is TensorFlow Serving's.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

import io
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import write_receipt
from service.api.classify import ANSWERED_BY
from service.api.content_coding import refuse_coding
from service.api.deadline import TimeoutHeader, timeout_of
from service.api.encoding import encode
from service.api.instances import parse_instances
from service.api.large_json import read_large
from service.api.limits import BodyLimits
from service.api.schemas import PIXEL_PNG, ClassPrediction, Problem
from service.engine.errors import InvalidImagesError, VersionNotFoundError
from service.engine.predictor import Outcome, Predictor
from service.engine.repository import ReadyVersion
from service.engine.scan import VERSION

PREDICT = "/v1/models/{name}:predict"
PREDICT_VERSION = "/v1/models/{name}/versions/{version}:predict"
# Parsing this much JSON takes about as long as handing it to another thread and back.
_PARSE_ON_LOOP_BYTES = 2**14

_OTHER_METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"]

router = APIRouter(tags=["kserve"])


class Predictions(BaseModel):
    """The most probable class of each instance, in order."""

    predictions: list[ClassPrediction]


_BODY: dict[str, Any] = {
    "required": True,
    "description": "Images as base64 or as numbers; read as JSON whatever the content type says.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["instances"],
                "properties": {
                    "instances": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "oneOf": [
                                {
                                    "type": "object",
                                    "description": "an image file; may stand in another object,"
                                    " under the name of an input",
                                    "required": ["b64"],
                                    "properties": {"b64": {"type": "string"}},
                                },
                                {
                                    "type": "array",
                                    "description": "pixels from 0 to 255, [H][W][3] or grey [H][W]",
                                    "items": {"type": "array", "items": {}},
                                },
                            ]
                        },
                    }
                },
            },
            "examples": {
                "base64": {"value": {"instances": [{"b64": PIXEL_PNG}]}},
                "TensorFlow Serving": {
                    "value": {"instances": [{"image_bytes": {"b64": PIXEL_PNG}}]}
                },
                "RGB pixels": {"value": {"instances": [[[[200, 30, 30], [0, 0, 255]]]]}},
                "grey pixels": {"value": {"instances": [[[0, 255], [255, 0]]]}},
            },
        }
    },
}

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Empty or malformed body"},
    404: {"model": Problem, "description": "No such model or version"},
    413: {"model": Problem, "description": "Body too large, or too many instances or numbers"},
    415: {"model": Problem, "description": "A compressed body"},
    422: {"model": Problem, "description": "Instances that are no images, each by its index"},
    503: {"model": Problem, "description": "Overloaded or not ready; see Retry-After"},
    504: {"model": Problem, "description": "No answer within the deadline"},
}

_Name = Annotated[str, Path(description="model name", examples=["cifar10"])]
_Version = Annotated[str, Path(description="model version", examples=["1"])]


@router.post(
    PREDICT,
    response_model=Predictions,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": _BODY},
    summary="Classify instances (KServe V1)",
)
async def predict(request: Request, name: _Name, _timeout: TimeoutHeader = None) -> Response:
    """Name the most probable class of each instance: one prediction an instance, in order."""
    return await _predict(request, name, None)


@router.post(
    PREDICT_VERSION,
    response_model=Predictions,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": _BODY},
    summary="Classify instances by one version (KServe V1)",
)
async def predict_version(
    request: Request, name: _Name, version: _Version, _timeout: TimeoutHeader = None
) -> Response:
    """Name the most probable class of each instance: one prediction an instance, in order."""
    if not VERSION.fullmatch(version):
        raise VersionNotFoundError(
            f"{version[:100]!r} is no version.",
            hint="Versions are plain numbers; GET /v1/models lists them.",
        )
    return await _predict(request, name, int(version))


@router.api_route(PREDICT, methods=_OTHER_METHODS, include_in_schema=False)
@router.api_route(PREDICT_VERSION, methods=_OTHER_METHODS, include_in_schema=False)
async def refuse_others() -> Response:
    """Say what is wrong; as the name of a model, "x:predict" would only not be found."""
    raise HTTPException(
        HTTPStatus.METHOD_NOT_ALLOWED, "Only POST is allowed", headers={"Allow": "POST"}
    )


async def _predict(request: Request, name: str, version: int | None) -> Response:
    state = request.app.state
    predictor: Predictor = state.predictor
    timeout_s = timeout_of(request)
    model = predictor.repository.find(name, version)
    request.scope["state"][ANSWERED_BY] = model.metrics
    body = await _read_body(request, state.body_limits)
    if len(body) <= _PARSE_ON_LOOP_BYTES:
        images = parse_instances(body, state.body_limits)
    else:
        images = await read_large(request, parse_instances, body, state.body_limits)
    del body  # not held while its images are run
    try:
        outcome = await predictor.predict(model, images, 1, skip_errors=False, timeout_s=timeout_s)
    except InvalidImagesError as error:
        error.hint = "Correct these instances or leave them out."
        raise
    content = await encode(_write, model, outcome, 1)
    response = Response(content, media_type="application/json")
    if state.receipts:
        response.raw_headers += write_receipt(model, outcome.decode_s, outcome.receipt)
    return response


async def _read_body(request: Request, limits: BodyLimits) -> bytes:
    """Read the whole body; it is one JSON document, and whoever sends it need not say so."""
    refuse_coding(value for name, value in request.headers.raw if name == b"content-encoding")
    what, hint = "The JSON document", "Send fewer instances in one request"
    limits.check_held(int(request.headers.get("content-length", 0)), what, hint)
    body = io.BytesIO()
    async for block in request.stream():
        limits.hold(body.tell() + len(block), what, hint)
        body.write(block)
    return body.getvalue()


def _write(model: ReadyVersion, outcome: Outcome) -> bytes:
    labels = model.metadata.labels
    predictions = [
        {"class_id": ids[0], "label": labels[ids[0]], "probability": probabilities[0]}
        for ids, probabilities in outcome.ranking or ()
    ]
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)

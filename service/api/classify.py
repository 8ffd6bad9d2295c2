"""``POST /v1/classify``: images in, ranked classes out."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Headers, write_answer, write_receipt
from service.api.bodies import read_images
from service.api.schemas import CLASSIFY_BODY, ClassifyQuery, ClassifyResponse, Problem
from service.engine.errors import InvalidParameterError
from service.engine.predictor import Predictor

PATH = "/v1/classify"
TIMEOUT_HEADER = "x-request-timeout"
# Set in a request's state: the metrics of the model version that it is for.
ANSWERED_BY = "answered_by"
# Writing this many classes takes about a millisecond; more would hold up the event loop.
_WRITE_ON_LOOP = 2_000
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?(ms|s|)")

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
    PATH,
    response_model=ClassifyResponse,
    response_model_exclude_none=True,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": CLASSIFY_BODY},
    summary="Classify one image or many",
)
async def classify(
    request: Request,
    query: Annotated[ClassifyQuery, Query()],
    _timeout: Annotated[
        str | None,
        Header(
            alias="X-Request-Timeout",
            description="time that the client gives this request: seconds, or '250ms'",
            pattern=_DURATION.pattern,
        ),
    ] = None,
) -> Response:
    """Name the most probable classes of each image.

    The body is one image as it is, several files as multipart/form-data, base64 in JSON, or pixels
    as .npy. The answer always has the same form: one result an image, in order.
    """
    body, headers = await answer(request, query)
    response = Response(body)
    response.raw_headers = headers
    return response


async def answer(request: Request, query: ClassifyQuery) -> tuple[bytes, Headers]:
    """Classify a request's images; ``service.api.front`` comes here on a shorter way.

    Returns:
        The body of the answer, and its headers.

    Raises:
        ServiceError: It can't be answered.
    """
    state = request.app.state
    predictor: Predictor = state.predictor
    timeout_s = _timeout_s(request, state.max_timeout_s)
    model = predictor.repository.find(query.model, query.version)
    request.scope["state"][ANSWERED_BY] = model.metrics
    images = await read_images(request, state.body_limits)
    outcome = await predictor.predict(
        model, images, query.top_k, skip_errors=query.on_error == "skip", timeout_s=timeout_s
    )
    if outcome.count * query.top_k <= _WRITE_ON_LOOP:
        body = write_answer(model, outcome)
    else:
        body = await run_in_threadpool(write_answer, model, outcome)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if state.receipts:
        headers += write_receipt(model, outcome.decode_s, outcome.receipt)
    return body, headers


def _timeout_s(request: Request, limit_s: float) -> float | None:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * (1e-3 if found[2] == "ms" else 1.0) if found else 0.0
    if not 0 < seconds <= limit_s:
        raise InvalidParameterError(
            f"X-Request-Timeout is {text[:40]!r}.",
            hint=f"Send seconds ('2.5') or milliseconds ('250ms'), at most {limit_s:g} s.",
        )
    return seconds

"""``POST /v1/classify``: images in, ranked classes out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.answers import Headers, write_answer, write_identity, write_receipt
from service.api.bodies import read_images
from service.api.deadline import TimeoutHeader, timeout_of
from service.api.encoding import encode
from service.api.held import hold
from service.api.schemas import (
    CLASSIFY_BODY,
    LINES_CONTENT,
    ClassifyQuery,
    ClassifyResponse,
    Problem,
)
from service.api.streaming import NDJSON, answer_in_lines, wants_lines
from service.engine.predictor import Predictor

PATH = "/v1/classify"
# Set in a request's state: the metrics of the model version that it is for.
ANSWERED_BY = "answered_by"

_BYTES_A_CLASS = 128  # of an answer, whose pieces are joined

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
    responses={200: {"content": LINES_CONTENT}, **_PROBLEMS},
    openapi_extra={"requestBody": CLASSIFY_BODY},
    summary="Classify one image or many",
)
async def classify(
    request: Request,
    query: Annotated[ClassifyQuery, Query()],
    _timeout: TimeoutHeader = None,
) -> Response:
    """Name the most probable classes of each image.

    The body is one image as it is, several files as multipart/form-data, base64 in JSON or in lines
    of JSON, or pixels as .npy. The answer always has the same form: one result an image, in order;
    with `Accept: application/x-ndjson` one line an image, as soon as it is done.
    """
    if wants_lines(request.headers.get("accept", "").encode("latin-1")):
        return _Lines(request, query)
    body, headers = await answer(request, query)
    response = Response(body)
    response.raw_headers = headers
    return response


class _Lines(Response):
    def __init__(self, request: Request, query: ClassifyQuery) -> None:
        super().__init__(media_type=NDJSON)
        self._of = request, query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer_streaming(*self._of, send)


async def answer_streaming(request: Request, query: ClassifyQuery, send: Send) -> None:
    """Classify a request's images, and send one line for each as soon as it is done.

    Raises:
        ServiceError: It can't be answered, and nothing was sent.
    """
    state = request.app.state
    predictor: Predictor = state.predictor
    timeout_s = timeout_of(request)
    model = predictor.repository.find(query.model, query.version)
    request.scope["state"][ANSWERED_BY] = model.metrics
    images = await read_images(request, state.body_limits)
    headers = write_identity(model) if state.receipts else []
    await answer_in_lines(
        request,
        send,
        predictor,
        model,
        images,
        query.top_k,
        timeout_s=timeout_s,
        headers=headers,
    )


async def answer(request: Request, query: ClassifyQuery) -> tuple[bytes, Headers]:
    """Classify a request's images; ``service.api.front`` comes here on a shorter way.

    Returns:
        The body of the answer, and its headers.

    Raises:
        ServiceError: It can't be answered.
    """
    state = request.app.state
    predictor: Predictor = state.predictor
    timeout_s = timeout_of(request)
    model = predictor.repository.find(query.model, query.version)
    request.scope["state"][ANSWERED_BY] = model.metrics
    images = await read_images(request, state.body_limits)
    outcome = await predictor.predict(
        model, images, query.top_k, skip_errors=query.on_error == "skip", timeout_s=timeout_s
    )
    hold(outcome.count * min(query.top_k, len(model.metadata.labels)) * _BYTES_A_CLASS)
    body = await encode(write_answer, model, outcome, query.top_k)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if state.receipts:
        headers += write_receipt(model, outcome.decode_s, outcome.receipt)
    return body, headers

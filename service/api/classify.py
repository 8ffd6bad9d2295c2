"""``POST /v1/classify``: images in, ranked classes out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.api.answers import write_answer
from service.api.bodies import read_images
from service.api.schemas import CLASSIFY_BODY, ClassifyQuery, ClassifyResponse, Problem
from service.engine.predictor import Outcome, Predictor

# Writing this many classes takes about a millisecond; more would hold up the event loop.
_WRITE_ON_LOOP = 2_000

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
    model = predictor.repository.find(query.model, query.version)
    images = await read_images(request, request.app.state.body_limits)
    skip = query.on_error == "skip"
    outcome = await _while_connected(
        request, predictor.predict(model, images, query.top_k, skip_errors=skip)
    )
    if outcome.count * query.top_k <= _WRITE_ON_LOOP:
        body = write_answer(model, outcome)
    else:
        body = await run_in_threadpool(write_answer, model, outcome)
    return Response(body, media_type="application/json")


async def _while_connected(request: Request, work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Do the work unless the client hangs up; then cancel it, so that nothing more of it runs."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        working.cancel()
        listening.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client is gone; the body has been read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""``POST /v2/models/{name}/infer``: tensors in, tensors out."""

from __future__ import annotations

import re
import time

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Headers, write_receipt
from service.api.classify import ANSWERED_BY
from service.api.deadline import TimeoutHeader, timeout_of
from service.api.large_json import read_large
from service.api.oip.body import JSON_BYTES, Body, read_head, reading_body
from service.api.oip.compression import accepted_coding, deflate
from service.api.oip.inference import Inference, read_inference, write_reply
from service.api.oip.lookup import Name, Version, find_ready, predictor_of
from service.api.oip.schemas import INFER_BODY, INFER_HEADERS, InferReply, errors
from service.engine.repository import ReadyVersion
from service.settings import MAX_TIMEOUT_S

# More than that takes longer than handing it to another thread and back.
_JSON_ON_LOOP_BYTES, _BINARY_ON_LOOP_BYTES = 2**14, 2**20
_WRITE_ON_LOOP = 10_000  # scores; a millisecond
_DEFLATE_ON_LOOP_BYTES = 2**14

_ADDRESS = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

router = APIRouter(
    tags=["inference protocol v2"],
    responses={
        200: {
            "content": {
                "application/octet-stream": {
                    "schema": {
                        "type": "string",
                        "format": "binary",
                        "description": "JSON, then the bytes of the binary outputs",
                    }
                }
            },
            "headers": {
                JSON_BYTES: {
                    "description": "bytes of JSON before the binary outputs, uncompressed",
                    "schema": {"type": "integer"},
                }
            },
        },
        **errors(400, 404, 413, 415, 500, 503, 504),
    },
)


@router.post(
    "/v2/models/{name}/infer",
    response_model=InferReply,
    response_model_exclude_none=True,
    openapi_extra={"requestBody": INFER_BODY, "parameters": INFER_HEADERS},
)
async def infer(request: Request, name: Name, _timeout: TimeoutHeader = None) -> Response:
    """Run a model on images: pixels, or image files.

    JSON or binary tensors both ways, as the request says; `Accept-Encoding` gzip or deflate
    compresses the reply.
    """
    return await _respond(request, name, None)


@router.post(
    "/v2/models/{name}/versions/{version}/infer",
    response_model=InferReply,
    response_model_exclude_none=True,
    openapi_extra={"requestBody": INFER_BODY, "parameters": INFER_HEADERS},
)
async def infer_version(
    request: Request, name: Name, version: Version, _timeout: TimeoutHeader = None
) -> Response:
    """Run a version of a model on images, as without a version."""
    return await _respond(request, name, version)


async def _respond(request: Request, name: str, version: str | None) -> Response:
    body, headers = await _answer(request, name, version)
    response = Response(body)
    response.raw_headers = headers
    return response


def is_inference(path: str) -> bool:
    """Whether a path is that of an inference."""
    return path.endswith("/infer") and _ADDRESS.fullmatch(path) is not None


async def answer_shortly(request: Request) -> tuple[bytes, Headers]:
    """Run a model without the framework, for a path that ``is_inference``.

    Returns:
        The body of the reply, and its headers.

    Raises:
        ServiceError: It can't be answered.
    """
    found = _ADDRESS.fullmatch(request.scope["path"])
    assert found is not None
    name, version = found.groups()
    # As the framework would: metrics and traces ask for it.
    request.scope["route"] = router.routes[version is not None]
    return await _answer(request, name, version)


async def _answer(request: Request, name: str, version: str | None) -> tuple[bytes, Headers]:
    state = request.app.state
    model = find_ready(request, name, version)
    request.scope["state"][ANSWERED_BY] = model.metrics
    timeout_s = timeout_of(request)
    head = read_head(request.scope)
    async with reading_body(request, head, state.body_limits) as body:
        inference = await _read(request, model, body)
    del body  # JSON is not held while its images are run
    inferred = await predictor_of(request).infer(
        model, inference.images, timeout_s=inference.timeout_s or timeout_s
    )
    begun_s = time.perf_counter()
    names = model.name, model.version
    wanted = names, inference, inferred.prediction, model.metadata.labels
    if inferred.prediction.logits.size <= _WRITE_ON_LOOP:
        reply, json_bytes = write_reply(*wanted)
    else:
        reply, json_bytes = await run_in_threadpool(write_reply, *wanted)
    headers: Headers = [(b"content-type", b"application/json")]
    if json_bytes is not None:
        headers = [
            (b"content-type", b"application/octet-stream"),
            (JSON_BYTES.lower().encode(), b"%d" % json_bytes),
        ]
    coding = accepted_coding(head.accept_encoding)
    if coding is not None:
        if len(reply) <= _DEFLATE_ON_LOOP_BYTES:
            reply = deflate(reply, coding)
        else:
            reply = await run_in_threadpool(deflate, reply, coding)
        headers.append((b"content-encoding", coding.encode()))
    model.metrics.encoded(time.perf_counter() - begun_s)
    headers += [(b"content-length", b"%d" % len(reply)), (b"vary", b"accept-encoding")]
    if state.receipts:
        headers += write_receipt(model, inferred.decode_s, inferred.receipt)
    return reply, headers


async def _read(request: Request, model: ReadyVersion, body: Body) -> Inference:
    state = request.app.state
    wanted = body, model.metadata.input, state.body_limits, MAX_TIMEOUT_S
    json_bytes = len(body.json or b"")
    if json_bytes > _JSON_ON_LOOP_BYTES:
        return await read_large(request, read_inference, *wanted)
    if len(body.tensors) > _BINARY_ON_LOOP_BYTES:
        return await run_in_threadpool(read_inference, *wanted)
    return read_inference(*wanted)

"""The outermost part of the app: around every request, and a short way for classifications.

Every request gets an id, a limit on its body, and a line in the log. FastAPI resolves a route's
parameters anew for every request, which would cost as much as a small network:
``POST /v1/classify`` is answered here, by the same function and schema, with its query validated
once for each different text.
"""

from __future__ import annotations

import asyncio
import functools
import time
from urllib.parse import parse_qsl

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from service.api import errors
from service.api.classify import ANSWERED_BY, PATH, answer
from service.api.limits import limit_body
from service.api.request_log import AccessLog, RequestIds, header
from service.api.schemas import ClassifyQuery
from service.engine.metrics import Metrics

# Set in a request's state when its client has hung up, which ends the work on it.
GONE = "gone"
_CLIENT_CLOSED_REQUEST = 499  # for the log only, as nginx has it


class Front:
    """Answers classifications itself and hands on the rest."""

    def __init__(self, app: FastAPI, *, max_body_bytes: int, access_log: AccessLog | None) -> None:
        """Wrap the framework's app, whose state has what an answer needs."""
        self.app = app
        self._ids = RequestIds()
        self._max_body_bytes = max_body_bytes
        self._access_log = access_log
        self._metrics: Metrics = app.state.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_s = time.perf_counter()
        request_id = self._ids.of(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        id_header = (b"x-request-id", request_id.encode())
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], id_header]
            await send(message)

        receive = limit_body(header(scope, b"content-length"), receive, self._max_body_bytes)
        try:
            if scope["path"] == PATH and scope["method"] == "POST":
                await self._classify(scope, receive, send_with_id)
            else:
                await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if GONE not in state:
                raise
            status = _CLIENT_CLOSED_REQUEST
        finally:
            took_s = time.perf_counter() - started_s
            self._metrics.request(_route(scope), state.get(ANSWERED_BY), status, took_s)
            if self._access_log is not None:
                self._access_log.add(scope, status, took_s)

    async def _classify(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self.app
        request = Request(scope, receive)
        try:
            body, headers = await answer(request, parse_query(scope["query_string"]))
            status = 200
        except Exception as error:
            response = errors.respond(request, error)
            status, headers, body = response.status_code, response.raw_headers, bytes(response.body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """The route of a request, for its metrics: no text that a client can make up."""
    if scope["path"] == PATH:
        return PATH
    path: str | None = getattr(scope.get("route"), "path", None)
    return path or "other"


@functools.lru_cache(maxsize=1024)
def parse_query(text: bytes) -> ClassifyQuery:
    """Validate the query of a classification, as the framework would.

    Raises:
        RequestValidationError: A parameter is unknown or not allowed.
    """
    values = dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True))
    try:
        return ClassifyQuery.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError(
            [{**one, "loc": ("query", *one["loc"])} for one in found]
        ) from None

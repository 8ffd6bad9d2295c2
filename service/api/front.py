"""The outermost part of the app: around every request, and a short way for images.

Every request passes the gate, and gets an id, a limit on its body, and a line in the log. FastAPI
resolves a route's parameters anew for every request, which would cost as much as a small network:
``POST /v1/classify`` is answered here, by the same function and schema, with its query validated
once for each different text; and so are inferences of ``/v2``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Sequence
from urllib.parse import parse_qsl

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from service.api import errors
from service.api.auth.callers import Caller
from service.api.auth.gate import ALWAYS_ANSWERED, AdminGate, Gate
from service.api.browser import NOSNIFF, PREFLIGHT, allow_origins, page_headers
from service.api.classify import ANSWERED_BY, PATH, answer, answer_streaming
from service.api.errors import PROBLEM
from service.api.held import begin_holding
from service.api.lifecycle import PROBES, Lifecycle
from service.api.limits import limit_body
from service.api.oip.infer import answer_shortly as oip_answer
from service.api.oip.infer import is_inference
from service.api.refusals import Refusal, too_many_requests_in_flight, too_slow
from service.api.request_log import AccessLog, RequestIds, caller_trace_id, header
from service.api.schemas import ClassifyQuery
from service.api.streaming import wants_lines
from service.api.tracing import RequestTrace, Tracing
from service.engine.errors import RequestTooLargeError, StoppingError
from service.engine.image_count import ImageCount, count_images
from service.engine.metrics import Metrics
from service.logs import REQUEST

# Set in a request's state when its client has hung up, which ends the work on it.
GONE = "gone"
# Set to the reason when its body has come too slowly, which ends the work on it too.
TOO_SLOW = "too_slow"
# Set when the time that a stop leaves to it is over, which ends the work on it as well.
OUT_OF_TIME = "out_of_time"
_CLOSE = (b"connection", b"close")
_REST_S = 0.5
_REMEMBERED_BYTES = 200  # of a query; longer ones are rare, and many would take much memory
_CLIENT_CLOSED_REQUEST = 499  # for the log only, as nginx has it


class Front:
    """Answers classifications and inferences itself and hands on the rest.

    Attributes:
        app: The framework's.
        lifecycle: Of the process.
        metrics: Where requests are counted.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        gate: Gate,
        max_body_bytes: int,
        max_requests: int,
        access_log: AccessLog | None,
        origins: Sequence[str] = (),
        tracing: Tracing | None = None,
    ) -> None:
        """Wrap the framework's app, whose state has what an answer needs.

        Args:
            app: The framework's.
            gate: Lets requests through, or refuses them.
            max_body_bytes: Of one request.
            max_requests: In work at once.
            access_log: None: no lines.
            origins: Whose pages may call from a browser.
            tracing: Makes spans; None: there are no traces.
        """
        self.app = app
        self.lifecycle: Lifecycle = app.state.lifecycle
        self._tracing = tracing
        self._gate = gate
        self._ids = RequestIds()
        self._max_body_bytes = max_body_bytes
        self._max_requests = max_requests
        self._in_work = 0
        self._access_log = access_log
        self.metrics: Metrics = app.state.metrics
        self._handle = allow_origins(self._answer, origins)

    def for_operators(self) -> Front:
        """The same app on a port that has only probes and metrics, and asks nobody."""
        return Front(
            self.app,
            gate=AdminGate(),
            max_body_bytes=self._max_body_bytes,
            max_requests=self._max_requests,
            access_log=self._access_log,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await self._handle(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        request_id = self._ids.of(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        trace = self._introduce(scope, started_s)
        id_header = (b"x-request-id", request_id.encode())
        status = 0
        caller: Caller | None = None
        images: ImageCount | None = None
        path = scope["path"]
        short = scope["method"] == "POST" and (path == PATH or is_inference(path))

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], id_header, NOSNIFF]
                if not short:
                    headers += page_headers(headers)
                if caller is not None and caller.meter is not None:
                    headers += caller.meter.headers()
                if self.lifecycle.stopping:
                    headers.append(_CLOSE)
                message["headers"] = headers
            await send(message)

        receive = limit_body(header(scope, b"content-length"), receive, self._max_body_bytes)
        held = begin_holding(self.app.state.held_bytes)
        counted = False
        try:
            if PREFLIGHT in state:
                await state[PREFLIGHT](scope, receive, send_with_id)
                return
            self.lifecycle.check_open(scope["path"])
            caller = await self._gate.admit(scope)
            # Behind the gate: strangers whose tokens wait for an identity provider take no place.
            if self._in_work >= self._max_requests and scope["path"] not in ALWAYS_ANSWERED:
                raise too_many_requests_in_flight(self._max_requests)
            self._in_work += 1
            counted = True
            if caller is not None and caller.meter is not None and caller.meter.counts_images:
                images = count_images()
            if short:
                await self._answer_shortly(scope, receive, send_with_id)
            else:
                await self.app(scope, receive, send_with_id)
        except (Refusal, HTTPException, StoppingError) as refusal:
            await self._refuse(scope, receive, send_with_id, refusal)
        except asyncio.CancelledError:
            if TOO_SLOW in state and GONE not in state and not status:
                await self._refuse(scope, receive, send_with_id, too_slow(state[TOO_SLOW]))
            elif GONE in state:
                status = _CLIENT_CLOSED_REQUEST
            elif OUT_OF_TIME in state and not status:
                await self._refuse(scope, receive, send_with_id, _stopped())
            elif OUT_OF_TIME not in state:
                raise
        finally:
            if counted:
                self._in_work -= 1
            held.end()
            if images is not None and caller is not None and caller.meter is not None:
                caller.meter.add_images(images.total)
            took_s = time.perf_counter() - started_s
            route, model = _route(scope), state.get(ANSWERED_BY)
            self.metrics.request(route, model, status, took_s)
            if trace is not None:
                trace.end(route, status, model.labels if model else ("", ""), state.get(PROBLEM))
            if self._access_log is not None:
                self._access_log.add(scope, status, took_s)

    def _introduce(self, scope: Scope, began_s: float) -> RequestTrace | None:
        """Let log and traces know of a request."""
        state = scope["state"]
        REQUEST.set(state)
        if self._tracing is None or scope["path"] in PROBES:
            state["trace_id"] = caller_trace_id(scope)
            return None
        trace = self._tracing.begin(scope, state["request_id"], began_s)
        state["trace_id"] = trace.trace_id
        return trace

    async def _refuse(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        refusal: Refusal | HTTPException | StoppingError,
    ) -> None:
        scope["app"] = self.app
        if isinstance(refusal, StoppingError):
            await _take_rest(receive)
        response = errors.respond(Request(scope), refusal)
        await response(scope, receive, send)

    async def _answer_shortly(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self.app
        request = Request(scope, receive)
        try:
            accept = header(scope, b"accept")
            if scope["path"] != PATH:
                body, headers = await oip_answer(request)
            elif accept and wants_lines(accept):
                await answer_streaming(request, parse_query(scope["query_string"]), send)
                return
            else:
                body, headers = await answer(request, parse_query(scope["query_string"]))
            status = 200
        except Exception as error:
            response = errors.respond(request, error)
            status, headers, body = response.status_code, response.raw_headers, bytes(response.body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _take_rest(receive: Receive) -> None:
    """Take in the rest of a body, but not for long.

    The connection is closed behind the answer; if that is while the body comes, the answer is lost
    on its way (RFC 9112, 9.6).
    """
    with contextlib.suppress(TimeoutError, RequestTooLargeError):
        async with asyncio.timeout(_REST_S):
            while (await receive()).get("more_body"):
                pass


def _stopped() -> StoppingError:
    return StoppingError(
        "The service stops, and there was no time left for this request.",
        hint="Send it again; another one takes it.",
    )


def _route(scope: Scope) -> str:
    """The route of a request, for its metrics: no text that a client can make up."""
    if scope["path"] == PATH and PREFLIGHT not in scope["state"]:
        return PATH
    path: str | None = getattr(scope.get("route"), "path", None)
    return path or "other"


def parse_query(text: bytes) -> ClassifyQuery:
    """Validate the query of a classification, as the framework would.

    Raises:
        RequestValidationError: A parameter is unknown or not allowed.
    """
    return _parse_short(text) if len(text) <= _REMEMBERED_BYTES else _parse_query(text)


@functools.lru_cache(maxsize=1024)
def _parse_short(text: bytes) -> ClassifyQuery:
    return _parse_query(text)


def _parse_query(text: bytes) -> ClassifyQuery:
    values = dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True))
    # An answer names one; of thousands that are unknown, an error each would take long.
    unknown = [name for name in values if name not in ClassifyQuery.model_fields]
    for name in unknown[1:]:
        del values[name]
    try:
        return ClassifyQuery.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError(
            [{**one, "loc": ("query", *one["loc"])} for one in found]
        ) from None

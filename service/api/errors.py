"""Translate every error into an RFC 9457 answer; the one place that knows both sides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.api.answers import image_problem
from service.api.openapi import PROBLEM_TYPE
from service.engine import errors

_logger = logging.getLogger(__name__)

# The most specific class wins; tests/contract proves that every class of the tree is covered.
STATUS_OF: Mapping[type[errors.ServiceError], int] = {
    errors.ServiceError: 500,
    errors.InputError: 422,
    errors.EmptyRequestError: 400,
    errors.MalformedRequestError: 400,
    errors.UnsupportedMediaError: 415,
    errors.RequestTooLargeError: 413,
    errors.NotFoundError: 404,
    errors.UnavailableError: 503,
    errors.DeadlineExceededError: 504,
}

_HINT_OF = {
    404: "GET /docs lists the routes.",
    405: "The Allow header lists the methods of this route.",
}


def install(app: FastAPI) -> None:
    """Answer every error of an app as a problem document."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


def respond(request: Request, error: Exception) -> Response:
    """Answer an error as the app would."""
    return next(_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS)(
        request, error
    )


def status_of(error: errors.ServiceError) -> int:
    """HTTP status of an error."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)


def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.ServiceError)
    status = status_of(error)
    headers = {}
    if isinstance(error, errors.UnavailableError):
        headers["Retry-After"] = str(error.retry_after_s)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _logger.warning("%s: %s", error.code, error.detail, exc_info=error.__cause__)
    wrong: list[dict[str, Any]] | None = None
    if isinstance(error, errors.InvalidImagesError):
        wrong = [image_problem(e, i) for i, e in sorted(error.errors.items())]
    elif isinstance(error, errors.ImageError):
        wrong = [image_problem(error, 0)]
    return _problem(
        request, status, error.code, error.title, error.detail, error.hint, headers, wrong
    )


def _invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found: Sequence[Mapping[str, Any]] = error.errors()
    first = found[0]
    name = first["loc"][-1]
    if first["type"] == "extra_forbidden":
        detail = f"There is no parameter {name!r}."
        hint = "GET /docs lists the parameters."
    else:
        detail = f"Parameter {name!r} is {first.get('input')!r:.100}: {first['msg']}."
        hint = "GET /docs says what is allowed."
    kind = errors.InvalidParameterError
    return _problem(request, 422, kind.code, kind.title, detail, hint)


def _http_error(request: Request, error: Exception) -> Response:
    """Errors that the framework raises: no such route, wrong method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code, title = status.name.lower(), status.phrase
    detail = f"{request.method} {request.url.path}: {error.detail}."
    hint = _HINT_OF.get(status, "GET /docs describes the routes.")
    return _problem(request, status, code, title, detail, hint, dict(error.headers or {}))


def _nobody_listens(_request: Request, _error: Exception) -> Response:
    """The client left while it was sending; the status is for the access log only."""
    return Response(status_code=499)


def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has the trace, the client gets none of it."""
    _logger.error("unexpected error", exc_info=error)
    return _problem(
        request,
        500,
        "internal_error",
        "Internal error",
        "The service failed on this request.",
        "Report it with the request_id; the service's log has the cause.",
    )


def _problem(
    request: Request,
    status: int,
    code: str,
    title: str,
    detail: str,
    hint: str,
    headers: Mapping[str, str] | None = None,
    wrong: list[dict[str, Any]] | None = None,
) -> Response:
    request.app.state.metrics.refused(code)
    body: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": title,
        "status": int(status),
        "code": code,
        "detail": detail,
        "hint": hint,
        "request_id": request.state.request_id,
    }
    if wrong is not None:
        body["errors"] = wrong
    return Response(orjson.dumps(body), status, headers, PROBLEM_TYPE)


_HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Response]] = {
    errors.ServiceError: _service_error,
    RequestValidationError: _invalid_parameters,
    HTTPException: _http_error,
    ClientDisconnect: _nobody_listens,
    Exception: _unexpected,
}

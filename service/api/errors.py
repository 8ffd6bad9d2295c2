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
from starlette.routing import Match

from service.api.answers import image_problem
from service.api.oip import errors as oip_errors
from service.api.openapi import PROBLEM_TYPE
from service.api.refusals import Refusal
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
    errors.OutOfMemoryError: 503,
    errors.DeviceLostError: 503,
    errors.RunTimedOutError: 504,
}

# Set in a request's state: the code of the error that it was answered with.
PROBLEM = "problem"
INTERNAL_ERROR = "internal_error"
_HINT_OF = {
    404: "GET /docs lists the routes.",
    405: "The Allow header lists the methods of this route.",
}


def install(app: FastAPI) -> None:
    """Answer every error of an app as a problem document."""
    for kind in _HANDLERS:
        app.add_exception_handler(kind, respond)


def respond(request: Request, error: Exception) -> Response:
    """Answer an error as the app would."""
    handler = next(_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS)
    response = handler(request, error)
    if handler is not _unexpected:
        # Where it was raised refers to it and to the whole body, which would stay until the next
        # collection of garbage.
        error.__traceback__ = error.__cause__ = error.__context__ = None
    return response


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


def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _problem(
        request, error.status, error.code, error.title, error.detail, error.hint, error.headers
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
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED and error.detail == title:  # the framework's own
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return _problem(request, status, code, title, detail, hint, headers)


def _methods(request: Request) -> set[str]:
    """What may be asked of a path: the framework knows only the first of its routes."""
    found: set[str] = set()
    for router in request.app.routes:
        included = getattr(router, "original_router", None)
        for route in included.routes if included else [router]:
            if route.matches(request.scope)[0] is not Match.NONE:
                found |= getattr(route, "methods", None) or set()
    return found


def _nobody_listens(_request: Request, _error: Exception) -> Response:
    """The client left while it was sending; the status is for the access log only."""
    return Response(status_code=499)


def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has the trace, the client gets none of it."""
    _logger.error("unexpected error", exc_info=error)
    return _problem(
        request,
        500,
        INTERNAL_ERROR,
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
    request.scope["state"][PROBLEM] = code
    body: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": title,
        "status": int(status),
        "code": code,
        "detail": detail,
        "hint": hint,
        "request_id": request.state.request_id,
    }
    if oip_errors.speaks_protocol(request):
        return oip_errors.respond(body, int(status), headers or {}, wrong)
    if wrong is not None:
        body["errors"] = wrong
    return Response(orjson.dumps(body), status, headers, PROBLEM_TYPE)


_HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Response]] = {
    errors.ServiceError: _service_error,
    Refusal: _refusal,
    RequestValidationError: _invalid_parameters,
    HTTPException: _http_error,
    ClientDisconnect: _nobody_listens,
    Exception: _unexpected,
}

"""``/v2/repository``: what lies in the model repository, and what of it is served.

Source: Triton's model repository extension. Models come from the repository's folder alone: files
and configurations in a request are refused.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.auth.gate import management_allowed
from service.api.large_json import read_large
from service.api.limits import BodyLimits
from service.api.oip.body import read_head, reading_body
from service.api.oip.document import parse_object, read_flag, read_parameters
from service.api.oip.lookup import Name, repository_of
from service.api.oip.schemas import CONTROL_BODY, INDEX_BODY, IndexRow, errors
from service.api.refusals import management_closed
from service.engine import control
from service.engine.errors import EmptyRequestError
from service.engine.repository import UNLOADED, Entry, ModelRepository

_NOT_FROM_OUTSIDE = (
    "a model's files and configuration can't be sent; put them into the repository's folder, then"
    " load without 'config' and 'file:' parameters"
)

router = APIRouter(tags=["inference protocol v2"])


@router.post(
    "/v2/repository/index",
    responses=errors(400, 413, 415),
    openapi_extra={"requestBody": INDEX_BODY},
)
async def index(request: Request) -> list[IndexRow]:
    """Every version of every model in the repository, and why those are not ready that aren't."""
    document = await _read_document(request)
    ready_only = read_flag(document.get("ready", False), "'ready'")
    rows = _rows(repository_of(request))
    return [row for row in rows if row.state == "READY" or not ready_only]


@router.post(
    "/v2/repository/models/{name}/load",
    response_model=dict[str, str],
    responses=errors(400, 403, 404, 413, 415, 500),
    openapi_extra={"requestBody": CONTROL_BODY},
)
async def load(request: Request, name: Name) -> Response:
    """Load what is new, changed, unloaded or failed of a model; answers when it can."""
    parameters = await _read_control(request)
    if any(key == "config" or key.startswith("file:") for key in parameters):
        raise HTTPException(HTTPStatus.FORBIDDEN, _NOT_FROM_OUTSIDE)
    await run_in_threadpool(control.load, repository_of(request), name)
    return JSONResponse({})


@router.post(
    "/v2/repository/models/{name}/unload",
    response_model=dict[str, str],
    responses=errors(400, 403, 404, 413, 415, 503),
    openapi_extra={"requestBody": CONTROL_BODY},
)
async def unload(request: Request, name: Name) -> Response:
    """Let a model go, until it is loaded again; requests in work are finished."""
    await _read_control(request)
    await run_in_threadpool(control.unload, repository_of(request), name)
    return JSONResponse({})


async def _read_control(request: Request) -> dict[str, Any]:
    """The parameters of a load or unload, if it is allowed."""
    if not management_allowed(request):  # the gate has refused it already
        raise management_closed()
    document = await _read_document(request)
    return read_parameters(document.get("parameters"), "the request's parameters")


async def _read_document(request: Request) -> dict[str, Any]:
    """The JSON object of a request; no body is an empty one."""
    limits: BodyLimits = request.app.state.body_limits
    try:
        async with reading_body(request, read_head(request.scope), limits) as body:
            return await read_large(request, parse_object, body.json or b"")
    except EmptyRequestError:
        return {}


def _rows(repository: ModelRepository) -> list[IndexRow]:
    catalog = repository.catalog
    rows = {
        (name, number): _row(name, number, entry)
        for name, versions in catalog.items()
        for number, entry in versions.items()
    }
    for name, number in repository.loading:
        rows[name, number] = IndexRow(name=name, version=str(number), state="LOADING", reason="")
    return [rows[key] for key in sorted(rows)]


def _row(name: str, number: int, entry: Entry) -> IndexRow:
    reason = ""
    if entry is UNLOADED:
        reason = "unloaded"
    elif entry.error is not None:
        reason = f"{entry.error.detail} {entry.error.hint}"
    state = "READY" if entry.ready else "UNAVAILABLE"
    return IndexRow(name=name, version=str(number), state=state, reason=reason)

"""Triton's extensions that this service does not have: each of their routes says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NoReturn

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.api.oip.lookup import Name, Version

# Not in the OpenAPI document, which says what there is.
router = APIRouter()

_MEMORY = ("/v2/systemsharedmemory", "/v2/cudasharedmemory")


async def shared_memory() -> Response:
    """Not supported: send binary tensor data."""
    _refuse("shared memory is not supported; send binary tensor data")


async def shared_memory_region(region: str) -> Response:
    """Not supported: send binary tensor data."""
    _refuse("shared memory is not supported; send binary tensor data")


async def log_settings() -> Response:
    """Not supported: the setting `log_level` says what is logged."""
    _refuse(
        "log settings can't be changed while serving; the setting log_level says what is logged"
    )


async def trace_settings() -> Response:
    """Not supported."""
    _refuse("tracing is not supported")


async def model_trace_settings(name: Name) -> Response:
    """Not supported."""
    _refuse("tracing is not supported")


async def version_trace_settings(name: Name, version: Version) -> Response:
    """Not supported."""
    _refuse("tracing is not supported")


def _refuse(what: str) -> NoReturn:
    raise HTTPException(HTTPStatus.NOT_IMPLEMENTED, what)


_REGION, _TRACE = "/region/{region}", "/trace/setting"
_ROUTES: list[tuple[str, str, Callable[..., Awaitable[Response]]]] = [
    *[("GET", f"{kind}/status", shared_memory) for kind in _MEMORY],
    *[("POST", f"{kind}/unregister", shared_memory) for kind in _MEMORY],
    *[("GET", f"{kind}{_REGION}/status", shared_memory_region) for kind in _MEMORY],
    *[("POST", f"{kind}{_REGION}/register", shared_memory_region) for kind in _MEMORY],
    *[("POST", f"{kind}{_REGION}/unregister", shared_memory_region) for kind in _MEMORY],
    *[(verb, "/v2/logging", log_settings) for verb in ("GET", "POST")],
    *[(verb, f"/v2{_TRACE}", trace_settings) for verb in ("GET", "POST")],
    *[(verb, f"/v2/models/{{name}}{_TRACE}", model_trace_settings) for verb in ("GET", "POST")],
    *[
        (verb, f"/v2/models/{{name}}/versions/{{version}}{_TRACE}", version_trace_settings)
        for verb in ("GET", "POST")
    ],
]
for _verb, _path, _route in _ROUTES:
    router.add_api_route(_path, _route, methods=[_verb], include_in_schema=False)

"""``/v2`` and its health: what answers, and whether it can."""

from __future__ import annotations

from importlib import metadata

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.lifecycle import Lifecycle
from service.api.oip.schemas import Live, Ready, ServerMetadata, errors

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
_DISTRIBUTION = "adaresnet"

router = APIRouter(tags=["inference protocol v2"])


@router.get("/v2/", include_in_schema=False)
@router.get("/v2")
async def server_metadata() -> ServerMetadata:
    """What answers, and the extensions of the protocol that it has."""
    return ServerMetadata(
        name=_DISTRIBUTION,
        version=metadata.version(_DISTRIBUTION),
        extensions=list(EXTENSIONS),
    )


@router.get("/v2/health/live", response_model=Live, responses=errors(503))
async def live(request: Request) -> Response:
    """The process is alive, and its networks run; else it should be started again."""
    return _health("live", _lifecycle(request).ailment)


@router.get(
    "/v2/health/ready",
    response_model=Ready,
    response_model_exclude_none=True,
    responses=errors(503),
)
async def ready(request: Request) -> Response:
    """Requests can be answered: models are loaded, and the service is not about to stop."""
    return _health("ready", _lifecycle(request).obstacle)


def _health(good: str, reason: str | None) -> Response:
    if reason is None:
        return JSONResponse({good: True})
    # Clients of KServe look for "ready" in any answer, others for "error".
    return JSONResponse({good: False, "error": f"not {good}: {reason}"}, status_code=503)


def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle

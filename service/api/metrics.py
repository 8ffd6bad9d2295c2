"""``GET /metrics``: the service in numbers, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.engine.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["status"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format"}},
)
def show_metrics(request: Request) -> Response:  # no coroutine: in a thread, for it takes a while
    """Every metric, of all workers together."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.render(), headers={"content-type": CONTENT_TYPE})

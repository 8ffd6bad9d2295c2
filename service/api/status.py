"""What is served and whether it can answer: models, liveness, readiness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.lifecycle import LIVE, READY, STARTED, Lifecycle
from service.api.schemas import (
    Health,
    InputInfo,
    ModelInfo,
    ModelList,
    Problem,
    ServingInfo,
    VersionInfo,
)
from service.engine.instances import Instances
from service.engine.predictor import Predictor
from service.engine.repository import Entry
from service.metadata import Resize

router = APIRouter(tags=["status"])

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such model"}
}


@router.get("/v1/models", response_model_exclude_none=True)
async def list_models(request: Request) -> ModelList:
    """Every model in the repository, by name."""
    catalog = _predictor(request).repository.catalog
    return ModelList(models=[describe(name, catalog[name]) for name in sorted(catalog)])


@router.get("/v1/models/{name}", response_model_exclude_none=True, responses=_NOT_FOUND)
async def show_model(request: Request, name: str) -> ModelInfo:
    """One model: versions, classes, input, accuracy, learned shortcut scales, provider."""
    return describe(name, _predictor(request).repository.versions(name))


@router.head(LIVE, include_in_schema=False)
@router.get(
    LIVE,
    response_model=Health,
    responses={503: {"model": Health, "description": "Only a new process can help"}},
)
async def live(request: Request) -> Response:
    """The process is alive, and its networks run; else it should be started again."""
    return _health("ok", "not live", _lifecycle(request).ailment)


@router.head(STARTED, include_in_schema=False)
@router.get(
    STARTED,
    response_model=Health,
    responses={503: {"model": Health, "description": "It has not been ready yet"}},
)
async def started(request: Request) -> Response:
    """The service has been ready once: its models were loaded and warmed up."""
    return _health("started", "not started", _lifecycle(request).not_started)


@router.head(READY, include_in_schema=False)
@router.get(
    READY,
    response_model=Health,
    responses={503: {"model": Health, "description": "Models are being loaded, or it stops"}},
)
async def ready(request: Request) -> Response:
    """Requests can be answered: models are loaded, and the service is not about to stop."""
    return _health("ready", "not ready", _lifecycle(request).obstacle)


def describe(name: str, versions: Mapping[int, Entry]) -> ModelInfo:
    """Describe a model by the version of it that answers when none is asked for."""
    default = max((number for number, entry in versions.items() if entry.ready), default=None)
    rows = [_describe_version(number, versions[number]) for number in sorted(versions)]
    chosen = versions[default].ready if default is not None else None
    if chosen is None:
        return ModelInfo(name=name, ready=False, default_version=None, versions=rows)
    metadata = chosen.session.metadata
    size = metadata.input
    architecture = metadata.architecture
    return ModelInfo(
        name=name,
        ready=True,
        default_version=default,
        versions=rows,
        description=metadata.description or None,
        classes=metadata.labels,
        input=InputInfo(
            height=size.height,
            width=size.width,
            datatype=size.datatype,
            layout=size.layout,
            resize=_resize_rule(size.resize),
        ),
        accuracy=metadata.accuracy,
        shortcut_scales=architecture.shortcut_scales if architecture else None,
        execution_provider=chosen.session.provider,
        serving=_describe_serving(chosen.instances),
    )


def _describe_version(number: int, entry: Entry) -> VersionInfo:
    return VersionInfo(
        version=number,
        ready=entry.ready is not None,
        digest=entry.ready.digest if entry.ready else None,
        config_digest=entry.ready.config_digest if entry.ready else None,
        golden_difference=entry.ready.golden_difference if entry.ready else None,
        error=f"{entry.error.detail} {entry.error.hint}" if entry.error else None,
    )


def _describe_serving(instances: Instances) -> ServingInfo:
    plan = instances.plan
    return ServingInfo(
        devices=instances.device.split(","),
        instances=instances.count,
        threads=instances.threads,
        batch_size=plan.batch_size,
        small_batch_size=plan.small_batch_size,
        single_image_threads="all" if plan.wide_up_to else "one",
        images_per_s=round(instances.images_per_s, 1),
    )


def _resize_rule(resize: Resize) -> str:
    kept = f", {resize.crop:g} of it" if resize.crop < 1 else ""
    return f"{resize.rule}{kept}, {resize.filter}"


def _health(good: str, bad: str, reason: str | None) -> Response:
    if reason is None:
        return JSONResponse({"status": good})
    return JSONResponse({"status": f"{bad}: {reason}"}, status_code=503)


def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def _predictor(request: Request) -> Predictor:
    predictor: Predictor = request.app.state.predictor
    return predictor

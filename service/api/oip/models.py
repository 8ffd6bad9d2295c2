"""``/v2/models``: what a model takes and gives, how it runs, and whether it can answer.

Every model has the same face, whatever lies behind it: pixels in, logits and probabilities out. A
foreign graph's own names never show, for its preprocessing stands before them.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.limits import BodyLimits
from service.api.oip.inference import OUTPUTS
from service.api.oip.lookup import Name, Version, find_ready, find_versions, repository_of
from service.api.oip.schemas import (
    ConfigTensor,
    DynamicBatching,
    InstanceGroup,
    ModelConfiguration,
    ModelMetadata,
    ModelNames,
    Ready,
    TensorMetadata,
    errors,
)
from service.api.oip.tensors import PIXELS
from service.engine.errors import ModelNotReadyError
from service.engine.repository import ReadyVersion
from service.metadata import INPUT_NAME

_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"
_SCORES = "FP32"

_ERRORS = errors(404, 503)

router = APIRouter(tags=["inference protocol v2"])


@router.get("/v2/models")
async def list_models(request: Request) -> ModelNames:
    """Names of the models that can answer (KServe)."""
    catalog = repository_of(request).catalog
    return ModelNames(
        models=sorted(
            name
            for name, versions in catalog.items()
            if any(entry.ready for entry in versions.values())
        )
    )


@router.get("/v2/models/{name}", responses=_ERRORS)
async def model_metadata(request: Request, name: Name) -> ModelMetadata:
    """What a model takes and gives."""
    return _describe(request, name, None)


@router.get("/v2/models/{name}/versions/{version}", responses=_ERRORS)
async def version_metadata(request: Request, name: Name, version: Version) -> ModelMetadata:
    """What a version of a model takes and gives."""
    return _describe(request, name, version)


@router.get(
    "/v2/models/{name}/ready",
    response_model=Ready,
    response_model_exclude_none=True,
    responses=_ERRORS,
)
async def model_ready(request: Request, name: Name) -> Response:
    """A version of a model can answer."""
    return _is_ready(request, name, None)


@router.get(
    "/v2/models/{name}/versions/{version}/ready",
    response_model=Ready,
    response_model_exclude_none=True,
    responses=_ERRORS,
)
async def version_ready(request: Request, name: Name, version: Version) -> Response:
    """This version of a model can answer."""
    return _is_ready(request, name, version)


@router.get("/v2/models/{name}/config", response_model_exclude_none=True, responses=_ERRORS)
async def model_config(request: Request, name: Name) -> ModelConfiguration:
    """How a model runs, in Triton's words."""
    return _configure(request, name, None)


@router.get(
    "/v2/models/{name}/versions/{version}/config",
    response_model_exclude_none=True,
    responses=_ERRORS,
)
async def version_config(request: Request, name: Name, version: Version) -> ModelConfiguration:
    """How a version of a model runs, in Triton's words."""
    return _configure(request, name, version)


def _describe(request: Request, name: str, version: str | None) -> ModelMetadata:
    model = find_ready(request, name, version)
    versions = repository_of(request).versions(name)
    size = model.metadata.input
    scores = [-1, len(model.metadata.labels)]
    return ModelMetadata(
        name=name,
        versions=[str(number) for number in sorted(versions) if versions[number].ready],
        platform=_PLATFORM,
        inputs=[
            TensorMetadata(name=INPUT_NAME, datatype=PIXELS, shape=[-1, size.height, size.width, 3])
        ],
        outputs=[TensorMetadata(name=one, datatype=_SCORES, shape=scores) for one in OUTPUTS],
    )


def _is_ready(request: Request, name: str, version: str | None) -> Response:
    find_versions(request, name, version)
    try:
        find_ready(request, name, version)
    except ModelNotReadyError as error:
        return JSONResponse(
            {"name": name, "ready": False, "error": f"{error.detail} {error.hint}"},
            status_code=503,
            headers={"Retry-After": str(error.retry_after_s)},
        )
    return JSONResponse({"name": name, "ready": True})


def _configure(request: Request, name: str, version: str | None) -> ModelConfiguration:
    model = find_ready(request, name, version)
    size, plan = model.metadata.input, model.instances.plan
    classes = len(model.metadata.labels)
    return ModelConfiguration(
        name=name,
        platform=_PLATFORM,
        backend=_BACKEND,
        max_batch_size=_max_images(request, model),
        input=[
            ConfigTensor(
                name=INPUT_NAME,
                data_type=f"TYPE_{PIXELS}",
                format="FORMAT_NHWC",
                dims=[size.height, size.width, 3],
            )
        ],
        output=[
            ConfigTensor(name=one, data_type=f"TYPE_{_SCORES}", dims=[classes]) for one in OUTPUTS
        ],
        dynamic_batching=DynamicBatching(
            preferred_batch_size=sorted({plan.small_batch_size, plan.batch_size}),
            max_queue_delay_microseconds=round(plan.max_queue_delay_s * 1e6),
        ),
        instance_group=[
            InstanceGroup(
                kind="KIND_CPU" if model.session.device == "cpu" else "KIND_GPU",
                count=model.instances.count,
            )
        ],
    )


def _max_images(request: Request, model: ReadyVersion) -> int:
    """Images of one request: what is more than a batch is split, so a body's limit decides."""
    limits: BodyLimits = request.app.state.body_limits
    return max(1, min(limits.images, limits.part_bytes // model.metadata.input.pixel_bytes))

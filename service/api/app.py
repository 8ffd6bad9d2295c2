"""Build the HTTP application from settings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from service.api import classify, errors, openapi, status
from service.api import metrics as metrics_route
from service.api.front import Front
from service.api.limits import BodyLimits
from service.api.request_log import AccessLog
from service.engine.admission import AdmissionLimits
from service.engine.decode import DecodeOptions
from service.engine.decoding import DecodingOptions
from service.engine.errors import DeviceError
from service.engine.gpu import GpuOptions
from service.engine.instances import InstanceOptions, count_lanes
from service.engine.metrics import Metrics
from service.engine.plan import PlanOptions
from service.engine.predictor import EngineOptions, Predictor
from service.engine.repository import RepositoryOptions
from service.engine.session import SessionOptions, available_cpus
from service.settings import MAX_TIMEOUT_S, Settings

_TELL_S = 0.25
_logger = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    on_fatal: Callable[[str], None],
    *,
    metrics: Metrics | None = None,
    load_first: bool = False,
) -> ASGIApp:
    """Build the service.

    The app answers at once; models are loaded behind it, and ``/readyz`` says when they are.

    Args:
        settings: All of them.
        on_fatal: Called with the reason when the service can never become ready.
        metrics: Where to count; None: apart from other processes.
        load_first: Answer only when the models were loaded, for others answer meanwhile.
    """
    predictor = Predictor(engine_options(settings, workers=settings.workers), metrics)
    access_log = AccessLog() if settings.access_log else None

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loaded = asyncio.Event()
        watching = _watch(predictor, settings.repository_poll_s, on_fatal, loaded)
        async with _in_background(watching, _tell_other_workers(predictor)):
            if load_first:
                await loaded.wait()
            yield
        predictor.close()
        if access_log is not None:
            access_log.flush()

    app = FastAPI(
        title="AdaResNet Serving",
        version=metadata.version("adaresnet"),
        summary="Image classification over HTTP: adaptive residual networks on ONNX Runtime.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.predictor, app.state.metrics = predictor, predictor.metrics
    app.state.body_limits = BodyLimits(
        settings.max_images, settings.max_image_pixels, settings.max_buffer_bytes
    )
    for routes in (classify, status, metrics_route):
        app.include_router(routes.router)
    errors.install(app)
    openapi.install(app)
    app.state.receipts = settings.receipts
    app.state.max_timeout_s = MAX_TIMEOUT_S
    return Front(app, max_body_bytes=settings.max_body_bytes, access_log=access_log)


def engine_options(settings: Settings, *, workers: int = 1) -> EngineOptions:
    """Hand the settings down to the engine as plain values.

    Args:
        settings: All of them.
        workers: Engines like this one that share the CPUs.
    """
    cpus = max(1, available_cpus() // workers)
    return EngineOptions(
        models=RepositoryOptions(
            root=settings.repository,
            default_model=settings.default_model,
            instances=InstanceOptions(
                sessions=SessionOptions(
                    settings.device, settings.threads, gpu=_gpu_options(settings)
                ),
                lanes=count_lanes(settings.device, settings.instances, settings.threads, cpus),
                cpus=cpus,
                plan=PlanOptions(settings.max_batch_size, settings.max_queue_delay_ms / 1e3),
            ),
            probe=settings.probe_models,
        ),
        admission=AdmissionLimits(settings.max_queue_size, settings.max_pixel_bytes),
        decode=DecodingOptions(
            cpus,
            settings.max_image_pixels,
            DecodeOptions(settings.decoder, settings.jpeg_draft),
        ),
        request_timeout_s=settings.request_timeout_s,
    )


def _gpu_options(settings: Settings) -> GpuOptions:
    return GpuOptions(
        memory_mib=settings.gpu_memory_mib,
        cuda_graphs=settings.cuda_graphs,
        tensorrt_fp16=settings.tensorrt_fp16,
        tensorrt_cache=settings.tensorrt_cache,
    )


@contextlib.asynccontextmanager
async def _in_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(
    predictor: Predictor, every_s: float, on_fatal: Callable[[str], None], loaded: asyncio.Event
) -> None:
    """Load the repository, then keep it up to date."""
    repository = predictor.repository
    first, failing = True, False
    while first or every_s:
        try:
            await asyncio.to_thread(repository.refresh)
            failing = False
        except DeviceError as error:
            on_fatal(f"{error.detail} {error.hint}")
            loaded.set()
            return
        except Exception:
            # Whatever happens to the folder, what is loaded goes on serving.
            if not failing:
                _logger.exception("the model repository can't be read; trying again")
            failing = True
        if first and not repository.catalog:
            _logger.warning("no models in %s yet", repository.root)
        first = False
        loaded.set()
        await asyncio.sleep(every_s)


async def _tell_other_workers(predictor: Predictor) -> None:
    """Keep what this process has in work where the others, if there are any, read it."""
    while predictor.metrics.shared:
        predictor.metrics.refresh(predictor.admission.images)
        await asyncio.sleep(_TELL_S)

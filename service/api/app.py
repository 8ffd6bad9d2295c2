"""Build the HTTP application from settings."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from service.api import classify, docs_page, errors, home, kserve, large_json, openapi, status
from service.api import metrics as metrics_route
from service.api.auth.build import build_gate, find_risks
from service.api.auth.rates import SharedRates
from service.api.browser import parse_origins
from service.api.front import Front
from service.api.held import HeldBytes
from service.api.lifecycle import Lifecycle
from service.api.limits import BodyLimits
from service.api.oip import routes as oip_routes
from service.api.request_log import AccessLog
from service.api.tracing import start_tracing
from service.engine import control
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
from service.settings import Settings

_TELL_S = 0.25
_logger = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    on_fatal: Callable[[str], None],
    *,
    metrics: Metrics | None = None,
    load_first: bool = False,
    rates: SharedRates | None = None,
) -> Front:
    """Build the service.

    The app answers at once; models are loaded behind it, and ``/readyz`` says when they are.

    Args:
        settings: All of them.
        on_fatal: Called with the reason when the service can never become ready.
        metrics: Where to count; None: apart from other processes.
        load_first: Answer only when the models were loaded, for others answer meanwhile.
        rates: Shared with other processes, which count the requests of keys together.

    Raises:
        ValueError: A setting that says who may call is wrong, or its file can't be read.
    """
    gate = build_gate(settings, rates)
    for risk in find_risks(settings):
        _logger.warning("%s", risk)
    origins = parse_origins(settings.cors_origins)
    metrics = metrics or Metrics(max_classes=settings.metrics_classes)
    shared = metrics.folder if metrics else None
    predictor = Predictor(
        engine_options(settings, workers=settings.workers, shared=shared), metrics
    )
    tracing = start_tracing(settings.otlp_endpoint)
    access_log = AccessLog() if settings.access_log else None

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loaded = asyncio.Event()
        watching = _watch(predictor, settings.repository_poll_s, on_fatal, loaded)
        among_workers = _tell_other_workers(predictor), _follow_other_workers(predictor)
        async with _in_background(watching, *among_workers, *gate.watches()):
            if load_first:
                await loaded.wait()
            yield
        predictor.close()
        if access_log is not None:
            access_log.flush()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = _bare_app(lifespan)
    app.state.auth = gate
    app.state.predictor, app.state.metrics = predictor, predictor.metrics
    app.state.lifecycle = Lifecycle(predictor)
    app.state.body_limits = BodyLimits(
        settings.max_images, settings.max_image_pixels, settings.max_buffer_bytes
    )
    app.state.held_bytes = HeldBytes(settings.max_held_bytes)
    # kserve before status, for which "x:predict" would be the name of a model.
    for routes in (home, classify, kserve, status, metrics_route):
        app.include_router(routes.router)
    oip_routes.install(app)
    large_json.install(app)
    errors.install(app)
    openapi.install(app)
    docs_page.install(app)
    app.state.receipts = settings.receipts
    return Front(
        app,
        gate=gate,
        max_body_bytes=settings.max_body_bytes,
        max_requests=settings.max_requests,
        access_log=access_log,
        origins=origins,
        tracing=tracing,
    )


def _bare_app(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    return FastAPI(
        title="AdaResNet Serving",
        version=metadata.version("adaresnet"),
        summary="Image classification over HTTP: adaptive residual networks on ONNX Runtime.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # there are ours
        docs_url=None,  # a page of our own
        redoc_url=None,
    )


def engine_options(
    settings: Settings, *, workers: int = 1, shared: Path | None = None
) -> EngineOptions:
    """Hand the settings down to the engine as plain values.

    Args:
        settings: All of them.
        workers: Engines like this one that share the CPUs.
        shared: A folder of theirs; None: there is one engine.
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
                turns=shared and shared / "measuring",
            ),
            probe=settings.probe_models,
            model_name=settings.model_name,
            shared=shared,
            strict_readiness=settings.strict_readiness,
        ),
        admission=AdmissionLimits(settings.max_queue_size, settings.max_pixel_bytes),
        decode=DecodingOptions(
            cpus,
            settings.max_image_pixels,
            DecodeOptions(settings.decoder, settings.jpeg_draft, settings.decode_timeout_s),
        ),
        request_timeout_s=settings.request_timeout_s,
        run_timeout_s=settings.run_timeout_s,
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
        if first:
            # What is there now stays. To look through all of it would take the collector 50 ms each
            # time, in which nobody is answered.
            gc.collect()
            gc.freeze()
        first = False
        loaded.set()
        await asyncio.sleep(every_s)


async def _tell_other_workers(predictor: Predictor) -> None:
    """Keep what this process has in work where the others, if there are any, read it."""
    while predictor.metrics.shared:
        predictor.metrics.refresh(predictor.admission.images)
        await asyncio.sleep(_TELL_S)


async def _follow_other_workers(predictor: Predictor) -> None:
    """Unload and load what another worker was told to."""
    while predictor.metrics.shared:
        try:
            if control.follow(predictor.repository):
                await asyncio.to_thread(predictor.repository.refresh)
        except Exception:  # it is tried again at the next look at the folder
            _logger.exception("can't follow the other workers")
        await asyncio.sleep(_TELL_S)

"""Build the HTTP application from settings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from importlib import metadata

from fastapi import FastAPI
from starlette.types import ASGIApp

from service.api import classify, errors, openapi, status
from service.api.bodies import BodyLimits
from service.api.middleware import BodyLimit, RequestContext
from service.engine.admission import AdmissionLimits
from service.engine.errors import DeviceError
from service.engine.predictor import EngineOptions, Predictor
from service.engine.repository import RepositoryOptions
from service.engine.session import SessionOptions, available_cpus
from service.settings import Settings

_logger = logging.getLogger(__name__)


def create_app(settings: Settings, on_fatal: Callable[[str], None]) -> ASGIApp:
    """Build the service.

    The app answers at once; models are loaded behind it, and ``/readyz`` says when they are.

    Args:
        settings: All of them.
        on_fatal: Called with the reason when the service can never become ready.
    """
    predictor = Predictor(engine_options(settings))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(predictor, settings.repository_poll_s, on_fatal))
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        predictor.close()

    app = FastAPI(
        title="AdaResNet Serving",
        version=metadata.version("adaresnet"),
        summary="Image classification over HTTP: adaptive residual networks on ONNX Runtime.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.predictor = predictor
    app.state.body_limits = BodyLimits(settings.max_images, settings.max_image_pixels)
    app.include_router(classify.router)
    app.include_router(status.router)
    errors.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes)
    return RequestContext(app)


def engine_options(settings: Settings) -> EngineOptions:
    """Hand the settings down to the engine as plain values."""
    cpus = available_cpus()
    return EngineOptions(
        models=RepositoryOptions(
            root=settings.repository,
            default_model=settings.default_model,
            sessions=SessionOptions(settings.device, settings.threads or cpus),
            max_batch_size=settings.max_batch_size,
            probe=settings.probe_models,
        ),
        admission=AdmissionLimits(settings.max_queue_size, settings.max_pixel_bytes),
        decode_threads=cpus,
        max_image_pixels=settings.max_image_pixels,
        request_timeout_s=settings.request_timeout_s,
    )


async def _watch(predictor: Predictor, every_s: float, on_fatal: Callable[[str], None]) -> None:
    """Load the repository, then keep it up to date."""
    repository = predictor.repository
    first, failing = True, False
    while first or every_s:
        try:
            await asyncio.to_thread(repository.refresh)
            failing = False
        except DeviceError as error:
            on_fatal(f"{error.detail} {error.hint}")
            return
        except Exception:
            # Whatever happens to the folder, what is loaded goes on serving.
            if not failing:
                _logger.exception("the model repository can't be read; trying again")
            failing = True
        if first and not repository.catalog:
            _logger.warning("no models in %s yet", repository.root)
        first = False
        await asyncio.sleep(every_s)

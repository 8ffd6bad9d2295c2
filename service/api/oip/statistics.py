"""``/v2/models/stats``: what became of requests, in the form of Triton's statistics extension."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastapi import APIRouter
from starlette.requests import Request

from service.api.oip.lookup import Name, Version, find_versions, repository_of
from service.api.oip.schemas import (
    AllStatistics,
    BatchStatistics,
    InferenceStatistics,
    ModelStatistics,
    StatisticDuration,
    errors,
)
from service.engine.metrics import Metrics
from service.engine.repository import Entry
from service.engine.statistics import Duration, VersionStatistics, sum_up

_NEVER = StatisticDuration(count=0, ns=0)

router = APIRouter(tags=["inference protocol v2"])


# No coroutines: to read the series of all workers takes a while, in a thread.


@router.get("/v2/models/stats")
def all_statistics(request: Request) -> AllStatistics:
    """Statistics of every version that is served."""
    return _statistics(request, repository_of(request).catalog.items())


@router.get("/v2/models/{name}/stats", responses=errors(404, 503))
def model_statistics(request: Request, name: Name) -> AllStatistics:
    """Statistics of every version of a model that is served."""
    return _statistics(request, [(name, find_versions(request, name, None))])


@router.get("/v2/models/{name}/versions/{version}/stats", responses=errors(404, 503))
def version_statistics(request: Request, name: Name, version: Version) -> AllStatistics:
    """Statistics of one version, if it is served."""
    return _statistics(request, [(name, find_versions(request, name, version))])


def _statistics(
    request: Request, models: Iterable[tuple[str, Mapping[int, Entry]]]
) -> AllStatistics:
    metrics: Metrics = request.app.state.metrics
    found = sum_up(metrics.samples())
    return AllStatistics(
        model_stats=[
            _write(name, number, found.get((name, number), VersionStatistics()))
            for name, versions in sorted(models)
            for number in sorted(versions)
            if versions[number].ready
        ]
    )


def _write(name: str, number: int, of: VersionStatistics) -> ModelStatistics:
    return ModelStatistics(
        name=name,
        version=str(number),
        last_inference=round(of.last_inference_s * 1e3),
        inference_count=of.images,
        execution_count=of.run.count,
        inference_stats=InferenceStatistics(
            success=_duration(of.success),
            fail=_duration(of.fail),
            queue=_duration(of.queue),
            compute_input=_duration(of.decode),
            compute_infer=_duration(of.run),
            compute_output=_duration(of.encode),
            cache_hit=_NEVER,
            cache_miss=_NEVER,
        ),
        batch_stats=[
            BatchStatistics(
                batch_size=size,
                # Images are decoded, and answers written, a request and not a batch at a time.
                compute_input=_NEVER,
                compute_infer=_duration(runs),
                compute_output=_NEVER,
            )
            for size, runs in sorted(of.batches.items())
        ],
    )


def _duration(of: Duration) -> StatisticDuration:
    return StatisticDuration(count=of.count, ns=round(of.seconds * 1e9))

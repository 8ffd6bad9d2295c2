"""Every metric of the service, named in one place; docs/metrics.md says what to do with them.

Observations are made where the work is done, so finding the right series must cost nothing there: a
model version resolves its own once, and what can be observed once a batch is not observed once an
image.

With several workers each writes its series to files that all of them read, so that whichever is
asked gives the totals, those of workers that have died included.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from service.engine.errors import ImageError, InferenceError, ServiceError
from service.engine.gauges import Gauges
from service.engine.image_count import add_images
from service.engine.metric_files import SoundFiles, keep_values
from service.engine.predictions import PredictionMetrics, Predictions
from service.engine.retention import Retention

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_INFO = "adaresnet_model_info"
_VERSION = ("model", "version")
# Seconds: a tiny picture decodes in some ten microseconds, a request may take half a minute.
_SHORT_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_LONG_S = (1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
_TEXTS = {
    "decode": "Seconds to decode the images of a request, or a bit of a large one",
    "wait": "Seconds that the image which a batch begins with waited for its run",
    "run": "Seconds of a run of the network on a batch",
    "encode": "Seconds to write the answer of a request",
    "batch": "Seconds of runs, by the number of images in them",
    "last": "When a batch last ran, seconds since 1970",
    "images": "Images by what became of them",
    "refusals": "What was answered with an error or refused, by its code",
    "loads": "Tries to load a model version",
    "timeouts": "Runs that took too long, by whether they could be interrupted",
    "splits": "Batches that were cut in two for want of memory",
    "info": "1 for every model version that is served, with the provider that really runs it",
}

Reason = Literal["client_gone", "deadline", "request_failed"]
Served = tuple[str, int, str, str]  # model, version, digest, effective provider


class Account:
    """The images of one request so far, by what became of them.

    Attributes:
        received: Images that the service has seen of it.
        admitted: They were let in.
        ran: Went through the network.
        bad: What is wrong with those that can't be used, by index.
    """

    __slots__ = ("admitted", "bad", "ran", "received")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.received = self.ran = 0
        self.admitted = False
        self.bad: Mapping[int, ImageError] = {}


class VersionMetrics:
    """The series of one model version."""

    def __init__(self, metrics: Metrics, model: str, version: int) -> None:
        """Resolve them."""
        self.labels = labels = (model, str(version))
        self.decoded = metrics.decode.labels(*labels).observe
        self.encoded = metrics.encode.labels(*labels).observe
        self._queue_wait = metrics.queue_wait.labels(*labels).observe
        self._batch_size = metrics.batch_size.labels(*labels).observe
        self._run = metrics.run.labels(*labels).observe
        self._last = metrics.last_inference.labels(*labels).set
        self._batch = metrics.batch_run
        self._batches: dict[int, Callable[[float], None]] = {}
        self.split = metrics.splits.labels(*labels).inc
        self.predictions = Predictions(metrics.predictions, *labels)
        self._timeouts = metrics.timeouts
        self._answered = metrics.images.labels(*labels, "answered", "").inc
        self._images = metrics.images
        for reason in ("client_gone", "deadline", "request_failed"):
            self._images.labels(*labels, "never_run", reason)  # a counter is known before it counts

    def batch(self, size: int, wait_s: float, run_s: float) -> None:
        """A batch has run; the image it began with had waited so long."""
        self._batch_size(size)
        self._queue_wait(wait_s)
        self._run(run_s)
        observe = self._batches.get(size)
        if observe is None:
            observe = self._batches[size] = self._batch.labels(*self.labels, str(size)).observe
        observe(run_s)
        self._last(time.time())

    def timed_out(self, became: str) -> None:
        """A run has taken too long and was ``interrupted``, or else ``given_up``."""
        self._timeouts.labels(*self.labels, became).inc()

    def answered(self, count: int, bad: Mapping[int, ImageError]) -> None:
        """A request of so many images was answered, without the bad ones."""
        self._answered(count - len(bad))
        add_images(count - len(bad))
        if bad:
            self._failed(bad)

    def unanswered(self, account: Account, reason: Reason) -> None:
        """A request has ended without an answer, though its images had been let in."""
        self._failed(account.bad)
        self._count("never_run", reason, account.received - account.ran - len(account.bad))
        self._count("unanswered", reason, account.ran)

    def failed(self, account: Account, error: ServiceError) -> None:
        """A request has ended with an error."""
        if not account.admitted:
            self._count("refused", error.code, account.received)
            return
        if isinstance(error, InferenceError):
            self._count("failed", error.code, account.ran)
            account.received -= account.ran
            account.ran = 0
        self.unanswered(account, "request_failed")

    def _failed(self, bad: Mapping[int, ImageError]) -> None:
        for error in bad.values():
            self._count("failed", error.code, 1)

    def _count(self, outcome: str, reason: str, images: int) -> None:
        if images > 0:
            self._images.labels(*self.labels, outcome, reason).inc(images)
            if outcome != "refused":
                add_images(images)


class Metrics:
    """All of them, in a registry of their own; made once and handed down.

    Attributes:
        folder: Where other workers read what is counted here; None: this process is alone.
        decode: Decoding the images of a request, or a bit of a large one.
        encode: Writing the answer of a request.
        queue_wait: Wait of the image that a batch begins with.
        batch_size: Images of a run.
        run: A run.
        batch_run: A run, by the number of its images.
        last_inference: When a batch last ran.
        images: Images by what became of them.
        splits: Batches that were cut in two for want of memory.
        timeouts: Runs that took too long.
        predictions: Predicted classes, and how sure they are.
        gauges: What is looked up when somebody asks.
    """

    def __init__(self, folder: Path | None = None, max_classes: int = 100) -> None:
        """Make them.

        Args:
            folder: Where several workers share theirs; ``share_metrics`` is to come before. None:
                this process is alone.
            max_classes: Classes of a model that are counted by their names.
        """
        self._registry = registry = _Registry()
        self._source: Collector = registry
        if folder is not None:
            self._source = SoundFiles(folder)
        self.folder = folder
        in_model = functools.partial(Histogram, labelnames=_VERSION, registry=registry)
        counter = functools.partial(Counter, registry=registry)
        self._requests = Histogram(
            "adaresnet_request_duration_seconds",
            "Seconds from a request's head to the end of its answer",
            ("route", *_VERSION, "status"),
            buckets=_LONG_S,
            registry=registry,
        )
        self.decode = in_model("adaresnet_decode_seconds", _TEXTS["decode"], buckets=_SHORT_S)
        self.queue_wait = in_model("adaresnet_queue_wait_seconds", _TEXTS["wait"], buckets=_SHORT_S)
        self.run = in_model("adaresnet_run_seconds", _TEXTS["run"], buckets=_SHORT_S)
        self.batch_size = in_model("adaresnet_batch_size", "Images of a run", buckets=_IMAGES)
        self.encode = in_model("adaresnet_encode_seconds", _TEXTS["encode"], buckets=_SHORT_S)
        self.batch_run = Summary(
            "adaresnet_batch_run_seconds",
            _TEXTS["batch"],
            (*_VERSION, "batch_size"),
            registry=registry,
        )
        self.last_inference = Gauge(
            "adaresnet_last_inference_timestamp_seconds",
            _TEXTS["last"],
            _VERSION,
            multiprocess_mode="max",
            registry=registry,
        )
        self.images = counter(
            "adaresnet_images_total", _TEXTS["images"], (*_VERSION, "outcome", "reason")
        )
        self.splits = counter("adaresnet_batch_splits_total", _TEXTS["splits"], _VERSION)
        self.timeouts = counter(
            "adaresnet_runs_timed_out_total", _TEXTS["timeouts"], (*_VERSION, "result")
        )
        self.predictions = PredictionMetrics(registry, max_classes)
        self.gauges = Gauges(registry)
        self._retention = Retention()
        self._refusals = counter("adaresnet_refusals_total", _TEXTS["refusals"], ("reason",))
        self._loads = counter("adaresnet_model_loads_total", _TEXTS["loads"], (*_VERSION, "result"))
        self._in_work = Gauge(
            "adaresnet_images_in_work",
            "Images that are being decoded, wait, or run",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._info = Gauge(
            _INFO,
            _TEXTS["info"],
            (*_VERSION, "digest", "provider"),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._versions: dict[tuple[str, int], VersionMetrics] = {}
        self._served: frozenset[Served] = frozenset()
        self._observers: dict[tuple[str, VersionMetrics | None, int], Callable[[float], None]] = {}

    def version(self, model: str, version: int) -> VersionMetrics:
        """The series of a model version; the same when it is loaded again."""
        key = (model, version)
        if key not in self._versions:
            self._versions[key] = VersionMetrics(self, model, version)
        return self._versions[key]

    def request(self, route: str, of: VersionMetrics | None, status: int, took_s: float) -> None:
        """A request was answered with a status by a model version, or by none."""
        key = (route, of, status)
        observe = self._observers.get(key)
        if observe is None:
            labels = of.labels if of else ("", "")
            observe = self._requests.labels(route, *labels, str(status)).observe
            self._observers[key] = observe
        observe(took_s)

    def keep(self, present: Iterable[tuple[str, int]]) -> None:
        """These versions are there, ready or not; forget others once they are gone for long.

        Of several workers nobody can take a series out of the files that all read: there it is only
        not shown any more.
        """
        there = [(model, str(version)) for model, version in present]
        for model, version in self._retention.update(there, time.monotonic()):
            of = self._versions.pop((model, int(version)), None)
            if of is not None:
                kept = {key: one for key, one in self._observers.items() if key[1] is not of}
                self._observers = kept
            if not self.shared:
                self._registry.forget(model, version)

    def refused(self, code: str) -> None:
        """A request was answered with an error."""
        self._refusals.labels(code).inc()

    def load(self, model: str, version: int, *, succeeded: bool) -> None:
        """A model version was loaded, or could not be."""
        self._loads.labels(model, str(version), "succeeded" if succeeded else "failed").inc()

    def serve(self, served: Iterable[Served]) -> None:
        """These and no other model versions are served now."""
        now = frozenset(served)
        for gone in self._served - now:
            self._info.labels(*map(str, gone)).set(0)  # and not shown, see _Shown
        for new in now - self._served:
            self._info.labels(*map(str, new)).set(1)
        self._served = now

    def watch(self, in_work: Callable[[], int]) -> None:
        """Say how images in work are counted: when asked, or by ``refresh`` if shared."""
        if not self.shared:
            self._in_work.set_function(in_work)

    def refresh(self, in_work: int) -> None:
        """Write down for the other workers how many images are in work in this one."""
        self._in_work.set(in_work)
        self._look()

    def _look(self) -> None:
        self.gauges.refresh()
        for version in list(self._versions.values()):
            version.predictions.flush()

    @property
    def shared(self) -> bool:
        """Other workers read what is counted here."""
        return self.folder is not None

    def samples(self) -> Iterator[Sample]:
        """Every series with its value now, of all workers together. Takes some milliseconds."""
        for metric in self._source.collect():
            yield from metric.samples

    def render(self) -> bytes:
        """All series as text, as Prometheus reads it. Takes some milliseconds."""
        self._look()
        return generate_latest(_Shown(self._source, self._retention))


class _Registry(CollectorRegistry):
    """One that can forget a model version."""

    def __init__(self) -> None:
        super().__init__()
        self._metrics: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self._metrics.append(collector)

    def forget(self, model: str, version: str) -> None:
        for metric in self._metrics:
            if isinstance(metric, Counter | Gauge | Histogram | Summary):
                with contextlib.suppress(ValueError):  # it has no such labels
                    metric.remove_by_labels({"model": model, "version": version})


class _Shown(Collector):
    """What is worth showing: no birth dates of series, no versions that are gone."""

    def __init__(self, source: Collector, retention: Retention) -> None:
        self._source = source
        self._retention = retention

    def collect(self) -> Iterable[Metric]:
        found: set[tuple[str, str]] = set()
        for metric in self._source.collect():
            shown = []
            for sample in metric.samples:
                of = sample.labels.get("model", ""), sample.labels.get("version", "")
                found.add(of)
                gone = of in self._retention.forgotten or (
                    sample.name == _INFO and not sample.value
                )
                if not gone and not sample.name.endswith("_created"):
                    shown.append(sample)
            metric.samples = shown
            yield metric
        self._retention.find(found - {("", "")}, time.monotonic())


def share_metrics(folder: Path, worker: int) -> None:
    """Let this process keep its series in files; before it makes its ``Metrics``.

    Args:
        folder: The same for all workers.
        worker: A number that no other living worker has. One that a dead worker had goes on with
            its counters, so that files don't pile up.
    """
    os.environ[_FOLDER_VARIABLE] = str(folder)
    forget_gauges(folder, worker)
    values.ValueClass = keep_values(worker)


def forget_gauges(folder: Path, worker: int) -> None:
    """Take what a worker that is dead had in work and served out of the totals."""
    mark_process_dead(worker, str(folder))  # type: ignore[no-untyped-call]

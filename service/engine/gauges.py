"""What is looked up when somebody asks, and not counted as it happens: queues, memory, the process.

With several workers each writes down its own four times a second; whichever is asked adds them up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from service.engine.cuda_driver import gpu_memory

_LABELS = ("model", "version")
# How the values of several workers become one.
_MODES = {"process_start_time_seconds": "livemin", "process_max_fds": "livemin"}


@dataclass(frozen=True)
class Look:
    """The engine at one moment.

    Attributes:
        waiting: Images in the queue, by model and version.
        busy: Instances that run something.
        idle: Those that could.
        lost: Runs that were given up and have not come back.
        gpus: Numbers of the GPUs that are used.
    """

    waiting: Mapping[tuple[str, int], int]
    busy: int
    idle: int
    lost: int
    gpus: frozenset[int] = frozenset()


class Gauges:
    """Series that ``refresh`` brings up to date."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Make them; they say nothing before the first ``refresh``."""
        self._waiting = Gauge(
            "adaresnet_queue_images",
            "Images that wait for a run",
            _LABELS,
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._instances = Gauge(
            "adaresnet_instances",
            "Instances by what they do: busy, idle, or lost in a run that was given up",
            ("state",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        # Of the whole GPU, whoever uses it: all workers see the same.
        self._gpu_used, self._gpu_total = (
            Gauge(
                f"adaresnet_gpu_memory_{what}_bytes",
                f"Memory of a GPU that {text}",
                ("gpu",),
                multiprocess_mode="livemax",
                registry=registry,
            )
            for what, text in (("used", "is used, by anybody"), ("total", "there is"))
        )
        self._process = dict(_process_metrics(registry))
        self._cpu_s = 0.0
        self._lock = threading.Lock()  # several may ask at once, each in a thread
        self._queues: set[tuple[str, int]] = set()
        self._look: Callable[[], Look] | None = None

    def watch(self, look: Callable[[], Look]) -> None:
        """Say how to look at the engine."""
        self._look = look

    def refresh(self) -> None:
        """Look now."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        for metric in ProcessCollector(registry=None).collect():
            (sample,) = metric.samples
            series = self._process.get(metric.name)
            if isinstance(series, Gauge):
                series.set(sample.value)
            elif series is not None:
                series.inc(max(0.0, sample.value - self._cpu_s))
                self._cpu_s = sample.value
        if self._look is None:
            return
        look = self._look()
        nothing = dict.fromkeys(self._queues - look.waiting.keys(), 0)
        for (model, version), images in {**nothing, **look.waiting}.items():
            self._waiting.labels(model, str(version)).set(images)
        self._queues = set(look.waiting)
        for state in ("busy", "idle", "lost"):
            self._instances.labels(state).set(getattr(look, state))
        for gpu in look.gpus:
            if memory := gpu_memory(gpu):
                self._gpu_used.labels(str(gpu)).set(memory[1] - memory[0])
                self._gpu_total.labels(str(gpu)).set(memory[1])


def _process_metrics(registry: CollectorRegistry) -> Iterator[tuple[str, Gauge | Counter]]:
    """The usual ones, by their usual names, as far as this system tells them."""
    for metric in ProcessCollector(registry=None).collect():
        if metric.type == "counter":
            yield metric.name, Counter(metric.name, metric.documentation, registry=registry)
            continue
        mode = _MODES.get(metric.name, "livesum")
        yield (
            metric.name,
            Gauge(
                metric.name,
                metric.documentation,
                multiprocess_mode=mode,  # type: ignore[arg-type]
                registry=registry,
            ),
        )

"""The sessions of one model version: one for every lane, and one for all threads together."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from service.engine.batcher import BatchPlan
from service.engine.cuda_driver import gpu_count
from service.engine.devices import CPU, LANES_A_GPU, parse_devices, spread_lanes
from service.engine.errors import InferenceError
from service.engine.gpu import MAX_GPU_BATCH_SIZE, GpuOptions
from service.engine.images import Pixels
from service.engine.plan import (
    MAX_BATCH_SIZE,
    WORTH_SHARING_S,
    PlanOptions,
    Timings,
    choose_plan,
    time_runs,
)
from service.engine.session import Prediction, Session, SessionOptions, cuda_built_in
from service.engine.turns import own_turn
from service.model_config import ModelConfig

_GPU_WARM_UP_S = 5.0  # sizes that have not begun by then are not used, unless they are asked for
_GPU_BUDGET_S = 1.0
_SETTLE_S = 0.05


@dataclass(frozen=True)
class InstanceOptions:
    """How a version's sessions are made.

    Attributes:
        sessions: The devices, over which lanes are spread, and the threads of one run; 0 threads:
            one, and all for single images where that is measured to be faster.
        lanes: Runs at once.
        cpus: Threads that all lanes have together.
        plan: What is settled of the batches.
        lane_threads: Threads of a run in a lane, as an earlier model has settled them; None: none
            has.
        turns: A file by which processes measure one after the other; None: there is one process.
    """

    sessions: SessionOptions
    lanes: int
    cpus: int
    plan: PlanOptions
    turns: Path | None = None
    lane_threads: int | None = None


def count_lanes(device: str, instances: int, threads: int, cpus: int) -> int:
    """Runs at once over all devices.

    Args:
        device: The setting, as ``parse_devices`` reads it.
        instances: Runs at once on the CPU, or on each GPU; 0: as many CPU runs as there are CPUs
            for, ``LANES_A_GPU`` on each GPU.
        threads: Of a run on the CPU; 0: one.
        cpus: There are.
    """
    if _expects_gpu(device):
        return len(parse_devices(device).each) * (instances or LANES_A_GPU)
    return instances or max(1, cpus // max(1, threads))


def _expects_gpu(device: str) -> bool:
    devices = parse_devices(device)
    if not devices.demanded:
        return cuda_built_in() and gpu_count() > 0
    return devices.each[0].kind != "cpu"


def gpu_options(options: InstanceOptions) -> GpuOptions:
    """Options of sessions on GPUs, with buckets up to what the plan may choose."""
    cap = options.plan.max_batch_size or MAX_GPU_BATCH_SIZE
    return replace(options.sessions.gpu, max_batch_size=cap)


class Instances:
    """A loaded model version, as often as it has to be.

    Attributes:
        first: The session of the first lane; what it says holds for all.
        device: What the setting ``device`` has turned out to mean: other versions go there too.
        threads: CPU threads of a run in a lane.
        plan: How images are cut into batches.
        timings: Seconds of a run in one lane, by batch size, as measured at load.
    """

    def __init__(
        self, model: bytes, options: InstanceOptions, config: ModelConfig | None = None
    ) -> None:
        """Load a model; ``measure`` is to follow before anything is served.

        Raises:
            ModelLoadError: As ``Session`` does.
            DeviceError: As ``Session`` does.
        """
        self._options = options
        asked = parse_devices(options.sessions.device)
        devices = asked.each
        threads = options.lane_threads or options.sessions.threads or 1
        strict = options.sessions.strict and asked.demanded
        made = replace(options.sessions, threads=threads, strict=strict, gpu=gpu_options(options))
        self.first = Session(model, made, config)
        if self.first.device == "cpu":
            devices = (CPU,)
            if _expects_gpu(options.sessions.device):
                # Lanes for a GPU that does not run are few; they share the CPUs all the same.
                made = replace(made, threads=max(made.threads, options.cpus // options.lanes))
                if made.threads > 1:
                    self.first = Session(model, replace(made, device="cpu"), config)
        self.threads = made.threads
        self._strict = strict
        self.device = ",".join(str(device) for device in devices)
        # A run with one thread has it from its lane, so that all lanes share one session; a
        # session with more keeps threads of its own, and one on a GPU has its own stream there.
        shared = self.first.device == "cpu" and made.threads == 1
        self._sessions = [self.first] + [
            self.first if shared else Session(model, replace(made, device=str(device)), config)
            for device in spread_lanes(devices, options.lanes)[1:]
        ]
        self._wide: Session | None = None
        self.plan = BatchPlan(1, 1)
        self.timings: Timings = {}

    @property
    def settled(self) -> InstanceOptions:
        """How other models are to be loaded, now that it is known what runs here, and how."""
        sessions = replace(self._options.sessions, device=self.device, strict=self._strict)
        return replace(self._options, sessions=sessions, lane_threads=self.threads)

    @property
    def sessions(self) -> list[Session]:
        """Every session of the lanes, once."""
        return list({id(session): session for session in self._sessions}.values())

    @property
    def served(self) -> list[tuple[Session, int]]:
        """Every session that answers, and the largest batch that it is given; once measured."""
        wide = [(self._wide, self.plan.wide_up_to)] if self._wide else []
        return [(session, self.plan.batch_size) for session in self.sessions] + wide

    @property
    def count(self) -> int:
        """Runs at once."""
        return self._options.lanes

    @property
    def replaceable(self) -> bool:
        """Whether a session can run something although a run hangs in it: those on GPUs can't."""
        return not self.first.buckets

    @property
    def images_per_s(self) -> float:
        """What one lane alone reached at load, with the batch size that does best."""
        return max((size / seconds for size, seconds in self.timings.items()), default=0.0)

    def run(self, images: Pixels, lane: int, wide: bool) -> Prediction:
        """Run one batch in a lane, or with the threads of all.

        Raises:
            InferenceError: ONNX Runtime failed.
        """
        session = self._wide if wide and self._wide else self._sessions[lane]
        return session.run(images)

    def measure(self, model: bytes, config: ModelConfig | None = None) -> None:
        """Time a few runs and settle the plan; on GPUs, warm up every session.

        Blocks for about a tenth of a second, on GPUs for some seconds; and while other processes
        do the same, for they would measure each other.

        Raises:
            ModelLoadError: As ``Session`` does; the same model loads once more, for all threads.
            InferenceError: It can't run.
        """
        with own_turn(self._options.turns):
            if self.first.device == "cpu":
                self._measure_on_cpu(model, config)
            else:
                self._measure_on_gpus()

    def _measure_on_cpu(self, model: bytes, config: ModelConfig | None) -> None:
        size, options = self.first.metadata.input, self._options
        cap = options.plan.max_batch_size or MAX_BATCH_SIZE
        # Of a graph that is fixed to a number of pictures a run of one costs as much.
        least = min(cap, self.first.batch_size or 1)
        self.timings = time_runs(self.first.run, size.height, size.width, cap, least=least)
        together: Timings | None = None
        shared_out = options.sessions.threads == 0 and options.cpus > 1
        if shared_out and self.timings[least] >= WORTH_SHARING_S:
            threads = replace(options.sessions, device="cpu", threads=options.cpus, spin=True)
            self._wide = wide = Session(model, threads, config)

            def time_wide() -> Timings:
                most = max(least, min(cap, options.lanes))
                return time_runs(wide.run, size.height, size.width, most, least=least)

            together = time_wide()
            if together[least] >= self.timings[least]:
                # Threads that wait for each other lose all as soon as anybody else takes a CPU for
                # a moment, as may happen just now.
                time.sleep(_SETTLE_S)
                again = time_wide()
                together = {n: min(together.get(n, again[n]), again[n]) for n in again}
        # Lanes that share what waits would each pad their part to what the graph is fixed to.
        plan = options.plan
        self.plan = choose_plan(self.timings, together, options.lanes, plan, spread=least == 1)
        if not self.plan.wide_up_to:
            self._wide = None

    def _measure_on_gpus(self) -> None:
        size, plan = self.first.metadata.input, self._options.plan
        warm = _warm_up(self.first, self.first.buckets, patient=bool(plan.max_batch_size))
        self.timings = time_runs(
            self.first.run, size.height, size.width, warm[-1], sizes=warm, budget_s=_GPU_BUDGET_S
        )
        self.plan = choose_plan(self.timings, None, self._options.lanes, plan, spread=False)
        served = [bucket for bucket in self.first.buckets if bucket <= self.plan.batch_size]
        for session in self.sessions:
            if session is not self.first:
                _warm_up(session, served, patient=True)


def _warm_up(session: Session, buckets: tuple[int, ...] | list[int], *, patient: bool) -> list[int]:
    """Run every bucket, and say which may be used.

    Args:
        session: On a GPU.
        buckets: Batch sizes, ascending.
        patient: All have to run; else those that there is time and memory for.

    Raises:
        InferenceError: One does not run that has to.
    """
    until_s = time.perf_counter() + _GPU_WARM_UP_S
    warm: list[int] = []
    for bucket in buckets:
        try:
            session.warm_up(bucket)
        except InferenceError:
            if patient or not warm:
                raise
            break
        warm.append(bucket)
        if not patient and time.perf_counter() > until_s:
            break
    return warm

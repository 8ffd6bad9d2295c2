"""The sessions of one model version: one for every lane, and one for all threads together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.engine.batcher import BatchPlan
from service.engine.images import Pixels
from service.engine.plan import (
    MAX_BATCH_SIZE,
    WORTH_SHARING_S,
    PlanOptions,
    Timings,
    choose_plan,
    time_runs,
)
from service.engine.session import Prediction, Session, SessionOptions
from service.model_config import ModelConfig


@dataclass(frozen=True)
class InstanceOptions:
    """How a version's sessions are made.

    Attributes:
        sessions: The device, and the threads of one run; 0 threads: one, and all for single images
            where that is measured to be faster.
        lanes: Runs at once.
        cpus: Threads that all lanes have together.
        plan: What is settled of the batches.
    """

    sessions: SessionOptions
    lanes: int
    cpus: int
    plan: PlanOptions


class Instances:
    """A loaded model version, as often as it has to be.

    Attributes:
        first: The session of the first lane; what it says holds for all.
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
        one_thread = replace(options.sessions, threads=options.sessions.threads or 1)
        self.first = Session(model, one_thread, config)
        # A run with one thread has it from its lane, so that all lanes share one session; a
        # session with more keeps threads of its own.
        shared = self.first.device == "cpu" and one_thread.threads == 1
        self._sessions = [self.first] + [
            self.first if shared else Session(model, one_thread, config)
            for _ in range(options.lanes - 1)
        ]
        self._wide: Session | None = None
        self.plan = BatchPlan(1, 1)
        self.timings: Timings = {}

    @property
    def sessions(self) -> list[Session]:
        """Every session of the lanes, once."""
        return list({id(session): session for session in self._sessions}.values())

    def run(self, images: Pixels, lane: int, wide: bool) -> Prediction:
        """Run one batch in a lane, or with the threads of all.

        Raises:
            InferenceError: ONNX Runtime failed.
        """
        session = self._wide if wide and self._wide else self._sessions[lane]
        return session.run(images)

    def measure(self, model: bytes, config: ModelConfig | None = None) -> None:
        """Time a few runs and settle the plan. Blocks for about a tenth of a second.

        Raises:
            ModelLoadError: As ``Session`` does; the same model loads once more, for all threads.
            InferenceError: It can't run.
        """
        size, options = self.first.metadata.input, self._options
        cap = options.plan.max_batch_size or MAX_BATCH_SIZE
        self.timings = time_runs(self.first.run, size.height, size.width, cap)
        on_cpu = self.first.device == "cpu"
        together: Timings | None = None
        shared_out = options.sessions.threads == 0 and options.cpus > 1
        if on_cpu and shared_out and self.timings[1] >= WORTH_SHARING_S:
            threads = replace(options.sessions, threads=options.cpus)
            self._wide = Session(model, threads, config)
            together = time_runs(self._wide.run, size.height, size.width, min(cap, options.lanes))
        self.plan = choose_plan(self.timings, together, options.lanes, options.plan, spread=on_cpu)
        if not self.plan.wide_up_to:
            self._wide = None

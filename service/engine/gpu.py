"""A graph on a GPU: batches in a few sizes only, and host memory that the GPU can copy from.

Every new batch size costs a first run of milliseconds to seconds, while cuDNN chooses algorithms
(microsoft/onnxruntime issues 21541, 17443). So batches are padded to buckets, powers of two, all
of which have run before a model answers.

**What overlaps.** A session has its own CUDA stream: within it, copying pictures in, the network,
and copying scores out follow one another. Two lanes on a GPU are two sessions, so two streams: the
copy engines serve one while the multiprocessors compute the other. This thread holds no lock of
Python meanwhile: ``InferenceSession.run`` gives up the GIL around all three steps. That is why the
input is handed over as a host array, and not bound: ``OrtValue.update_inplace``, by which a bound
buffer on the device would be filled from Python, copies under the GIL and outside the session's
stream (ONNX Runtime's onnxruntime_pybind_ortvalue.cc). ``Binding.DEVICE`` does bind, as CUDA graphs
need; benchmarks/gpu_serving.py measures both.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.cuda_driver import pinned_zeros
from service.engine.devices import Device

MAX_GPU_BATCH_SIZE = 256  # tried at most when none is set
# ONNX Runtime captures after one or two plain runs, by version (its pull request 15005), and what
# follows is replayed: so many runs of a bucket may be something else.
_RUNS_UNTIL_REPLAY = 4
_NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}

Outputs = list[NDArray[Any]]


class CaptureGate:
    """Lets runs go on together, and a capture of a CUDA graph only alone.

    ONNX Runtime captures in the mode ``cudaStreamCaptureModeGlobal``, in which no thread of the
    process may allocate device memory and the like; its own comment there says "For now cuda graph
    can only work with a single thread".
    """

    def __init__(self) -> None:
        """Nothing runs."""
        self._changed = threading.Condition()
        self._running = 0
        self._waiting_alone = 0

    @contextlib.contextmanager
    def run(self, *, alone: bool) -> Iterator[None]:
        """Run beside others, or wait for their end and keep them out."""
        with self._changed:
            if alone:
                self._waiting_alone += 1
                self._changed.wait_for(lambda: not self._running)
            else:
                self._changed.wait_for(lambda: not self._waiting_alone)
                self._running += 1
        try:
            if not alone:
                yield
            else:
                with self._changed:  # nobody begins before it is left
                    yield
        finally:
            with self._changed:
                if alone:
                    self._waiting_alone -= 1
                else:
                    self._running -= 1
                self._changed.notify_all()


class Binding(enum.Enum):
    """How a batch gets to the device."""

    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True)
class GpuOptions:
    """How models run on GPUs; the CPU needs none of it.

    Attributes:
        memory_mib: Most device memory that a session's arena may take; 0: no limit.
        max_batch_size: The largest bucket.
        cuda_graphs: Replay the kernels of a bucket as one CUDA graph.
        binding: How a batch gets to the device, where there are no CUDA graphs.
        tensorrt_fp16: TensorRT may compute in half precision.
        tensorrt_cache: Folder of the engines that were built ahead; None: the user's cache folder.
        gate: Shared by all sessions of a process, and passed by every run if there are CUDA graphs.
    """

    memory_mib: int = 0
    max_batch_size: int = MAX_GPU_BATCH_SIZE
    cuda_graphs: bool = False
    binding: Binding = Binding.HOST
    tensorrt_fp16: bool = False
    tensorrt_cache: Path | None = None
    gate: CaptureGate = field(default_factory=CaptureGate, compare=False)


def bucket_sizes(max_batch_size: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the cap itself, ascending."""
    powers = [1 << exponent for exponent in range((max_batch_size - 1).bit_length())]
    return (*powers, max_batch_size)


def bucket_of(count: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds so many images, else the largest."""
    return next((bucket for bucket in buckets if bucket >= count), buckets[-1])


def pieces_of(count: int, buckets: Sequence[int]) -> list[tuple[int, int, int]]:
    """Start, stop and bucket of the runs that so many images take."""
    largest = buckets[-1]
    return [
        (start, min(start + largest, count), bucket_of(count - start, buckets))
        for start in range(0, count, largest)
    ]


class GpuGraph:
    """A session with the face of ``InferenceSession``, whose runs have few batch sizes.

    Runs of one graph follow one another; for more at once there are more sessions. Not tied to
    GPUs: on the CPU it does the same, which is how it is tested.

    Attributes:
        buckets: Its batch sizes, ascending.
        replays: It captures CUDA graphs.
    """

    def __init__(self, session: Any, device: Device, options: GpuOptions, *, replays: bool) -> None:
        """Wrap a session.

        Args:
            session: An ``onnxruntime.InferenceSession`` with one input, images first.
            device: Where it runs.
            options: Buckets and binding.
            replays: The session captures CUDA graphs; it must be ``bindable``.
        """
        self._session = session
        self._device = device
        first = session.get_inputs()[0].shape[:1]
        fixed = bool(first) and isinstance(first[0], int)
        self.buckets = (first[0],) if fixed else bucket_sizes(options.max_batch_size)
        self.replays = replays
        self._gate = options.gate if options.cuda_graphs or replays else None
        self._lock = threading.Lock()
        self._host: tuple[NDArray[Any], bool] | None = None
        bound = replays or (options.binding is Binding.DEVICE and bindable(session))
        self._bound: dict[int, _Bound] | None = {} if bound else None
        # A captured graph belongs to the thread that captured it, and is captured once more in any
        # other (CUDAExecutionProvider::PerThreadContext). Idle threads end with their pool.
        self._thread = ThreadPoolExecutor(1, "cuda-graphs") if replays else None

    def __getattr__(self, name: str) -> Any:
        """Inputs, outputs, metadata: as the session has them."""
        return getattr(self._session, name)

    @property
    def runs_until_warm(self) -> int:
        """So many runs of a bucket until the next is like all that follow."""
        return _RUNS_UNTIL_REPLAY if self.replays else 1

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Outputs:
        """Run a batch of any size; as ``InferenceSession.run``."""
        ((name, images),) = feeds.items()
        parts = []
        with self._lock:
            for start, stop, bucket in pieces_of(len(images), self.buckets):
                with self._passage(bucket):
                    parts.append(self._run(list(names), name, images[start:stop], bucket))
        return (
            parts[0] if len(parts) == 1 else [np.concatenate(p) for p in zip(*parts, strict=True)]
        )

    def _passage(self, bucket: int) -> contextlib.AbstractContextManager[None]:
        """Where any model of the process may be recorded, this one has to know, recorded or not."""
        if self._gate is None:
            return contextlib.nullcontext()
        bound = (self._bound or {}).get(bucket)
        recorded = bound is not None and bound.runs >= _RUNS_UNTIL_REPLAY
        return self._gate.run(alone=self.replays and not recorded)

    def _run(self, names: list[str], name: str, images: NDArray[Any], bucket: int) -> Outputs:
        count = len(images)
        staged, pinned = self._staged(images)
        if pinned or self._bound is not None or count < bucket:
            staged[:count] = images  # what is behind them is of earlier batches, and is cut off
            images = staged[:bucket]
        if self._bound is None:
            outputs: Outputs = self._session.run(names, {name: images})
        elif self._thread is None:
            outputs = self._bound_run(names, images, bucket)
        else:
            outputs = self._thread.submit(self._bound_run, names, images, bucket).result()
        return [out[:count] if out.shape[:1] == (bucket,) else out for out in outputs]

    def _staged(self, like: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """Host memory for the largest bucket of such images, and whether it is pinned."""
        if self._host is None or self._host[0].shape[1:] != like.shape[1:]:
            shape = (self.buckets[-1], *like.shape[1:])
            self._host = (
                (np.zeros(shape, like.dtype), False)
                if self._device.kind == "cpu"
                else pinned_zeros(shape, like.dtype)
            )
        return self._host

    def _bound_run(self, names: list[str], images: NDArray[Any], bucket: int) -> Outputs:
        assert self._bound is not None
        if bucket not in self._bound:
            # All of them before the first capture: what is allocated later could get the address
            # of memory that a graph writes to.
            for size in self.buckets:
                self._bound[size] = _Bound(self._session, self._device, size, images)
        return self._bound[bucket].run(names, images)


class _Bound:
    """Buffers on the device for the input and outputs of one bucket, always the same."""

    def __init__(self, session: Any, device: Device, bucket: int, like: NDArray[Any]) -> None:
        self.runs = 0
        self._session = session
        kind = "cpu" if device.kind == "cpu" else "cuda"
        self._binding = session.io_binding()
        self._input = ort.OrtValue.ortvalue_from_shape_and_type(
            [bucket, *like.shape[1:]], like.dtype, kind, device.index
        )
        self._binding.bind_ortvalue_input(session.get_inputs()[0].name, self._input)
        self._outputs: dict[str, Any] = {}
        for output in session.get_outputs():
            value = ort.OrtValue.ortvalue_from_shape_and_type(
                [bucket, *output.shape[1:]], _NUMBERS[output.type], kind, device.index
            )
            self._outputs[output.name] = value
            self._binding.bind_ortvalue_output(output.name, value)
        # Not those that an ``Interrupt`` ends: a graph that is replayed has no operators any more.
        self._options = ort.RunOptions()
        # One graph a bucket (ONNX Runtime's "gpu_graph_id"); without CUDA graphs it means nothing.
        self._options.add_run_config_entry("gpu_graph_id", str(bucket))

    def run(self, names: list[str], images: NDArray[Any]) -> Outputs:
        self._input.update_inplace(images)
        self._session.run_with_iobinding(self._binding, self._options)
        self.runs += 1
        return [np.array(self._outputs[name].numpy()) for name in names]


def bindable(session: Any) -> bool:
    """Whether the outputs can be given buffers ahead: their sizes and types are known."""
    return len(session.get_inputs()) == 1 and all(
        output.type in _NUMBERS
        and len(output.shape) > 1
        and all(isinstance(size, int) for size in output.shape[1:])
        for output in session.get_outputs()
    )


def try_zeros(session: Any, run: Callable[[Any, Any], object]) -> None:
    """Run one picture of zeros through a graph whose sizes are known, in the way given."""
    inputs = session.get_inputs()
    sizes = inputs[0].shape if len(inputs) == 1 else None
    if not sizes or not all(isinstance(size, int) for size in sizes[1:]):
        return  # its configuration knows; it is tried with that
    number = _NUMBERS.get(inputs[0].type)
    if number is None:
        return
    first = sizes[0] if isinstance(sizes[0], int) else 1
    names = [output.name for output in session.get_outputs()]
    run(names, {inputs[0].name: np.zeros((first, *sizes[1:]), number)})

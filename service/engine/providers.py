"""Open a model on a processor, and prove that it runs there.

ONNX Runtime falls back in silence twice: a provider that can't start is left out of the session,
and a node that a provider has no kernel for goes to the CPU (microsoft/onnxruntime issues 23372,
23647). So a session counts as running on a GPU only after its provider is listed, the record of
the partitioning places the network there, and one picture went through it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from service.engine import tensorrt
from service.engine.devices import CPU, Device
from service.engine.errors import DeviceError, ModelLoadError
from service.engine.gpu import GpuGraph, GpuOptions, bindable, try_zeros
from service.engine.interrupt import InterruptibleSession

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
_PROVIDERS = {"cpu": CPU_PROVIDER, "cuda": CUDA_PROVIDER, "tensorrt": TENSORRT_PROVIDER}
_TITLES = {"cuda": "CUDA", "tensorrt": "TensorRT"}
_INSTALL = {
    "cuda": "Install adaresnet[gpu] instead of adaresnet[cpu], or use --device cpu.",
    "tensorrt": "Install adaresnet[gpu] and TensorRT 10 (docs/gpu.md), or use --device cuda.",
}
_CHECK = {
    "cuda": "Check nvidia-smi and the CUDA and cuDNN packages, or use --device cpu.",
    "tensorrt": "Check nvidia-smi and the TensorRT and CUDA packages, or use --device cuda.",
}
Provider = str | tuple[str, dict[str, str]]

_QUIET = 3  # ONNX Runtime's severity "error": its warnings name internals, ours say what to do
# What ONNX Runtime puts on the CPU on purpose, because sizes are numbers that the CPU needs, and
# what computes with sizes. Where such a node has pictures instead, the CUDA provider has a kernel
# for it. What is essential, convolutions and the like, is not in this list, nor is what only int8
# kernels of the CPU can do.
_SIZE_OPERATORS = {
    *("Shape", "Size", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast", "Range"),
    *("Constant", "ConstantOfShape", "Identity", "Add", "Sub", "Mul", "Div", "Mod", "Floor"),
    *("Min", "Max", "Neg", "Equal", "Where", "Not", "And", "Or", "Less", "Greater", "ReduceProd"),
}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A loaded graph, ``InferenceSession`` or with its face, and where it really runs."""

    graph: Any
    provider: str
    device: Device


def built_in(kind: str) -> bool:
    """The installed ONNX Runtime has the provider (which may still fail to start)."""
    return _PROVIDERS[kind] in ort.get_available_providers()


def open_on_cpu(model: bytes | Path, threads: int, *, spin: bool = False) -> Opened:
    """Load a model for the CPU.

    Args:
        model: File or its bytes.
        threads: Of one run.
        spin: They wait actively for each other, but only while it lasts.

    Raises:
        ModelLoadError: No ONNX model.
    """
    return Opened(_create(model, threads, [CPU_PROVIDER], spin=spin), CPU_PROVIDER, CPU)


def open_on_gpu(
    model: bytes | Path, device: Device, threads: int, options: GpuOptions, *, strict: bool
) -> Opened:
    """Load a model for a GPU, and prove that it runs there.

    Args:
        model: File or its bytes.
        device: The GPU.
        threads: CPU threads of what stays on the CPU.
        options: How it runs.
        strict: Refuse a model of which a part would run on the CPU; else warn.

    Raises:
        ModelLoadError: No ONNX model, none that runs on GPUs, or TensorRT's engine is missing.
        DeviceError: The GPU can't be used.
    """
    if not built_in(device.kind):
        raise DeviceError(
            f"The installed ONNX Runtime has no {_TITLES[device.kind]} provider.",
            hint=_INSTALL[device.kind],
        )
    said = load_libraries(device.kind)
    engines = None
    if device.kind == "tensorrt":
        # With a path, its name would be a part of the name that the engine is looked for by.
        model = model if isinstance(model, bytes) else model.read_bytes()
        engines = tensorrt.find_engines(tensorrt.engine_key(digest_of(model), device, options))
    session = create_on_gpu(model, device, threads, options, engines)
    if session.get_providers()[0] != _PROVIDERS[device.kind]:
        raise _unusable(device, said or "no GPU, no driver, or its libraries don't load")
    provider = check_placement(placement(session), device, strict=strict)
    graph = GpuGraph(session, device, options, replays=False)
    _try(graph, model, device, threads)
    if engines is not None:
        tensorrt.check_unchanged(engines)
    if options.cuda_graphs and device.kind == "cuda":
        graph = _with_cuda_graphs(graph, model, device, threads, options)
    return Opened(graph, provider, device)


def create_on_gpu(
    model: bytes | Path, device: Device, threads: int, options: GpuOptions, engines: Path | None
) -> Any:
    """Make a session, which need not run on the GPU yet; ``engines`` is TensorRT's folder.

    Raises:
        ModelLoadError: No ONNX model, or none for TensorRT.
        DeviceError: It loads, but not with the GPU's provider.
    """
    providers = _gpu_providers(model, device, options, engines)
    try:
        return _create(model, threads, providers)
    except ModelLoadError as error:
        # A file that loads nowhere is the file's fault; one that loads on the CPU is not.
        open_on_cpu(model, threads)
        raise _unusable(device, _first_line(error.__cause__)) from error


def _gpu_providers(
    model: bytes | Path,
    device: Device,
    options: GpuOptions,
    engines: Path | None = None,
    *,
    replays: bool = False,
) -> list[Provider]:
    """The providers of a session in their order, with their options."""
    cuda = {
        "device_id": str(device.index),
        # TF32 keeps 10 bits of mantissa: golden images, made in float32, would show it.
        "use_tf32": "0",
        # Searching the fastest algorithm for every new size stalls its first run for long.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles the arena each time it grows; what it has once it never gives back.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if options.memory_mib:
        cuda["gpu_mem_limit"] = str(options.memory_mib * 2**20)
    if replays:
        cuda["enable_cuda_graph"] = "1"
    providers: list[Provider] = [(CUDA_PROVIDER, cuda), CPU_PROVIDER]
    if engines is not None:
        shape = tensorrt.input_shape(_create(model, 1, [CPU_PROVIDER]))
        trt = tensorrt.provider_options(device, options, engines, shape)
        providers.insert(0, (TENSORRT_PROVIDER, trt))
    return providers


def placement(session: Any) -> dict[str, Counter[str]]:
    """How many nodes of each operator ONNX Runtime gave to each provider.

    This is its record of the partitioning, which binds what runs: a node is computed by the kernel
    of the provider that it was given to, or the session is not made at all.
    """
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        operators = found.setdefault(part.ep_name, Counter())
        operators.update(node.op_type for node in part.get_nodes())
    return found


def check_placement(found: dict[str, Counter[str]], device: Device, *, strict: bool) -> str:
    """Make sure that the network is on the GPU.

    ``session.disable_cpu_ep_fallback`` would be simpler, but refuses every node on the CPU, also
    those that compute sizes and belong there.

    Returns:
        The GPU's provider that has most of the network: TensorRT may leave it to CUDA.

    Raises:
        ModelLoadError: Strictly: all of it, or a part that matters, would run on the CPU.
        DeviceError: Else: all of it would.
    """
    title, wanted = _TITLES[device.kind], _PROVIDERS[device.kind]
    on_cpu = sorted(found.get(CPU_PROVIDER, Counter()).keys() - _SIZE_OPERATORS)
    if wanted not in found:
        failure = ModelLoadError if strict else DeviceError  # the device is not at fault
        raise failure(
            f"{title} takes no part of the model.", hint="Export it again in float32 or float16."
        )
    if on_cpu:
        line = f"{title} has no kernel for {', '.join(on_cpu[:8])} of this model"
        if strict:
            raise ModelLoadError(
                f"{line}: they would run on the CPU.",
                hint="Export it in float32 or float16, or use --device auto.",
            )
        _logger.warning("%s: they run on the CPU", line)
    return max(found.keys() - {CPU_PROVIDER}, key=lambda provider: found[provider].total())


def digest_of(model: bytes | Path) -> str:
    """SHA-256 of a model file, hex."""
    data = model if isinstance(model, bytes) else model.read_bytes()
    return hashlib.sha256(data).hexdigest()


def _try(graph: GpuGraph, model: bytes | Path, device: Device, threads: int) -> None:
    """Send a picture through: a GPU that is too old for the build fails only here, say."""
    try:
        try_zeros(graph, graph.run)
    except Exception as error:  # ONNX Runtime's own classes share no base
        on_cpu = open_on_cpu(model, threads).graph
        try:
            try_zeros(on_cpu, on_cpu.run)
        except Exception as fault:
            raise ModelLoadError(
                f"The network fails on a picture: {_brief(fault)}.",
                hint="The file is damaged; export it again.",
            ) from fault
        raise _unusable(device, _first_line(error)) from error


def _with_cuda_graphs(
    plain: GpuGraph, model: bytes | Path, device: Device, threads: int, options: GpuOptions
) -> GpuGraph:
    """The same with CUDA graphs; as it was where the model can't have them."""
    reason = "the sizes of its outputs are not known"
    if bindable(plain):
        wanted = _gpu_providers(model, device, options, replays=True)
        try:
            return GpuGraph(_create(model, threads, wanted), device, options, replays=True)
        except ModelLoadError as error:
            reason = _first_line(error.__cause__)
    _logger.warning("the model runs without CUDA graphs: %s", reason)
    return plain


@functools.cache
def load_libraries(kind: str) -> str:
    """Load CUDA, cuDNN and TensorRT from their Python packages; no LD_LIBRARY_PATH is needed.

    Returns:
        The first line of what ONNX Runtime had to say. It prints where it should log, and standard
        output belongs to the command that runs.
    """
    # For what it says before there is a session; the reasons why a provider fails are errors.
    ort.set_default_logger_severity(_QUIET)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            ort.preload_dlls()
        except Exception as error:  # the session's creation decides; this is only its preparation
            printed.write(_first_line(error))
    if kind == "tensorrt":
        tensorrt.load_libraries()
    return printed.getvalue().partition("\n")[0]


def _create(
    model: bytes | Path, threads: int, providers: list[Provider], *, spin: bool = False
) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = _QUIET
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    # Spinning threads would take the cores of other lanes and of HTTP. ONNX Runtime's go on with
    # it behind a run, unless they are told to stop.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "01"[spin])
    settings.add_session_config_entry("session.force_spinning_stop", "01"[spin])
    if providers != [CPU_PROVIDER]:
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    source = model if isinstance(model, bytes) else str(model)
    try:
        # Without its fallback, which would print on standard output and hide what runs.
        return InterruptibleSession(source, settings, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own classes share no base
        raise ModelLoadError(
            f"ONNX Runtime can't load the model ({type(error).__name__}): {_brief(error)}.",
            hint="The file is damaged or no ONNX model; export it again.",
        ) from error


def _first_line(error: BaseException | None) -> str:
    return str(error).partition("\n")[0]


def _brief(error: BaseException) -> str:
    return _first_line(error).rpartition(" : ")[2][:200].rstrip(". ")


def _unusable(device: Device, reason: str) -> DeviceError:
    name = _TITLES[device.kind] + (f" on GPU {device.index}" if device.index else "")
    return DeviceError(f"{name} can't be used: {reason}.", hint=_CHECK[device.kind])

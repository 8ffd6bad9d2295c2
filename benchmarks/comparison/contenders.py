"""Who is compared: how each server is started, what it is sent, and what it answers."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from comparison import bodies
from comparison.bodies import Answer, Encoding
from comparison.environments import PEERS

Kind = Literal["jpeg", "files", "tensor"]
_MAX_BATCH, _DELAY_MS = 32, 5
_BODY_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Launch:
    """What a server is started with.

    Attributes:
        environment: Folder of its Python environment.
        model: The model file.
        folder: Its own, for whatever it writes; empty before the start.
        port: To listen on.
        cores: Of this machine.
    """

    environment: Path
    model: Path
    folder: Path
    port: int
    cores: int

    def program(self, name: str) -> str:
        """A program of the environment."""
        return str(self.environment / "bin" / name)


@dataclass(frozen=True)
class Start:
    """A command line, and what it needs in the environment."""

    command: list[str]
    environ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """Where and how one kind of request goes; ``{model}`` in the path is the model's name."""

    path: str
    encoding: Encoding
    read: Callable[[bytes], list[Answer]]


@dataclass(frozen=True)
class Contender:
    """One server of the comparison.

    Attributes:
        name: On the command line.
        title: In tables.
        packages: Whose versions are reported.
        start: Makes the command line.
        routes: By kind of request; one that is missing it does not have.
        settings: What was set and why, for the report.
        warm_s: At least so long under load before anything is measured.
        single_first: One connection is measured before the load, which it forgets too slowly.
        python: Counts as a Python server in the goals.
        peer: Folder of its files; None: ours.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    start: Callable[[Launch], Start]
    routes: Mapping[Kind, Route]
    settings: str
    warm_s: int = 2
    single_first: bool = False
    python: bool = False
    peer: str | None = None


def ours(name: str, arguments: str) -> Contender:
    """Our own service with more arguments."""

    def start(launch: Launch) -> Start:
        repository = launch.model.parents[2]
        command = [launch.program("adaresnet"), "serve", "--models", str(repository)]
        return Start([*command, "--port", str(launch.port), *shlex.split(arguments)])

    path = "/v1/classify?model={model}&top_k=1"
    encodings: dict[Kind, Encoding] = {
        "jpeg": bodies.RAW,
        "files": bodies.FORM,
        "tensor": bodies.NPY,
    }
    return Contender(
        name=name,
        title=name,
        packages=("adaresnet", "fastapi", "uvicorn", "onnxruntime", "pillow", "simplejpeg"),
        start=start,
        routes={kind: Route(path, each, bodies.read_ours) for kind, each in encodings.items()},
        settings=f"`adaresnet serve {arguments}`".replace(" `", "`"),
    )


def peers() -> list[Contender]:
    """The others."""
    return [_fastapi(), _litserve(), _bentoml(), _mlserver(), _pytriton(), _torchserve(), _ray()]


def _environ(launch: Launch, **more: str) -> dict[str, str]:
    """For every peer: the model, the shared code, and a place for what it writes."""
    return {
        "BENCHMARK_MODEL": str(launch.model),
        "BENCHMARK_CORES": str(launch.cores),
        "PYTHONPATH": str(PEERS / "shared"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # as our own service has it
        "TMPDIR": str(launch.folder),
        **more,
    }


def _script(peer: str, launch: Launch, **more: str) -> Start:
    """A server that is a program of its own, ``server.py``, and takes a port."""
    script = str(PEERS / peer / "server.py")
    command = [launch.program("python"), script, "--port", str(launch.port)]
    return Start(command, _environ(launch, **more))


def _fastapi() -> Contender:
    def start(launch: Launch) -> Start:
        where = ["--app-dir", str(PEERS / "fastapi"), "--port", str(launch.port)]
        command = [launch.program("uvicorn"), "server:app", *where, "--log-level", "warning"]
        return Start(command, _environ(launch))

    return Contender(
        name="fastapi",
        title="plain FastAPI",
        packages=("fastapi", "uvicorn", "onnxruntime", "pillow"),
        start=start,
        routes={
            "jpeg": Route("/classify", bodies.RAW, bodies.read_list),
            "files": Route("/classify/files", bodies.FORM, bodies.read_list),
            "tensor": Route("/classify/tensor", bodies.NPY, bodies.read_list),
        },
        settings="uvicorn with uvloop and httptools, one process; a request decodes and runs in"
        " the thread pool; ONNX Runtime's default threads; no batching",
        python=True,
        peer="fastapi",
    )


def _litserve() -> Contender:
    return Contender(
        name="litserve",
        title="LitServe",
        packages=("litserve", "fastapi", "uvicorn", "onnxruntime", "pillow"),
        start=partial(_script, "litserve"),
        routes={
            "jpeg": Route("/classify", bodies.FORM, bodies.read_list),
            "files": Route("/classify", bodies.FORM, bodies.read_list),
            "tensor": Route("/classify", bodies.NPY_FORM, bodies.read_list),
        },
        settings="`max_batch_size=32`, `batch_timeout=0.005`, a worker of one thread a core;"
        " pictures and arrays come as files of a form, its own way",
        python=True,
        peer="litserve",
    )


def _bentoml() -> Contender:
    def start(launch: Launch) -> Start:
        where = ["--working-dir", str(PEERS / "bentoml"), "--port", str(launch.port)]
        command = [launch.program("bentoml"), "serve", "service:Classify", *where]
        home = str(launch.folder / "bentoml")
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": home}
        return Start([*command, "--host", "127.0.0.1"], _environ(launch, **quiet))

    return Contender(
        name="bentoml",
        title="BentoML",
        packages=("bentoml", "uvicorn", "onnxruntime", "pillow"),
        start=start,
        routes={
            "jpeg": Route("/classify", bodies.FORM, bodies.read_list),
            "files": Route("/classify", bodies.FORM, bodies.read_list),
            "tensor": Route("/tensor", bodies.NPY, bodies.read_list),
        },
        settings="a worker of one thread a core, adaptive batching with `max_batch_size=32` and"
        " `max_latency_ms=10000` (0.3 s makes it refuse requests under load, and by the default of"
        " 60 s a lone client waits while it learns); one connection is measured before other"
        " load, since waits learned under load stay long after it",
        warm_s=6,
        single_first=True,
        python=True,
        peer="bentoml",
    )


def _mlserver() -> Contender:
    def start(launch: Launch) -> Start:
        settings = {
            "host": "127.0.0.1",
            "http_port": launch.port,
            "grpc_port": launch.port + 1,
            "metrics_port": launch.port + 2,
            "debug": False,
            "parallel_workers": launch.cores,
        }
        model = {
            "name": "classify",
            "implementation": "server.Classify",
            "max_batch_size": _MAX_BATCH,
            "max_batch_time": _DELAY_MS / 1000,
        }
        (launch.folder / "settings.json").write_text(json.dumps(settings))
        (launch.folder / "model-settings.json").write_text(json.dumps(model))
        environ = _environ(launch)
        environ["PYTHONPATH"] += os.pathsep + str(PEERS / "mlserver")
        return Start([launch.program("mlserver"), "start", str(launch.folder)], environ)

    path = "/v2/models/classify/infer"
    return Contender(
        name="mlserver",
        title="MLServer",
        packages=("mlserver", "uvicorn", "onnxruntime", "pillow"),
        start=start,
        routes={
            "jpeg": Route(path, bodies.V2_JSON_FILES, bodies.read_v2_json),
            "files": Route(path, bodies.V2_JSON_FILES, bodies.read_v2_json),
            "tensor": Route(path, bodies.V2_JSON_PIXELS, bodies.read_v2_json),
        },
        settings="V2 protocol in JSON, pictures in base64; `max_batch_size` 32, `max_batch_time`"
        " 0.005 s, a parallel worker of one thread a core",
        python=True,
        peer="mlserver",
    )


def _pytriton() -> Contender:
    def start(launch: Launch) -> Start:
        # Triton's own process loads libpython, which must be the one of this interpreter.
        libraries = str(Path(sys.base_prefix) / "lib")
        home = str(launch.folder / "pytriton")
        return _script("pytriton", launch, PYTRITON_HOME=home, LD_LIBRARY_PATH=libraries)

    files, pixels = "/v2/models/pictures/infer", "/v2/models/pixels/infer"
    return Contender(
        name="pytriton",
        title="Triton (PyTriton)",
        packages=("nvidia-pytriton", "onnxruntime", "pillow"),
        start=start,
        routes={
            "jpeg": Route(files, bodies.V2_BINARY_FILES, bodies.read_v2_binary),
            "files": Route(files, bodies.V2_BINARY_FILES, bodies.read_v2_binary),
            "tensor": Route(pixels, bodies.V2_BINARY_PIXELS, bodies.read_v2_binary),
        },
        settings="V2 protocol with binary tensors; dynamic batching with"
        " `preferred_batch_size` 32 and 5 ms, an instance of one thread a core",
        peer="pytriton",
    )


def _torchserve() -> Contender:
    def start(launch: Launch) -> Start:
        return _start_torchserve(launch)

    path = "/predictions/classify"
    return Contender(
        name="torchserve",
        title="TorchServe",
        packages=("torchserve", "torch", "onnxruntime", "pillow"),
        start=start,
        routes={
            "jpeg": Route(path, bodies.RAW, bodies.read_list),
            "files": Route(path, bodies.FORM_OWN_FIELDS, bodies.read_list),
            "tensor": Route(path, bodies.NPY, bodies.read_list),
        },
        settings="a handler that runs the ONNX file; `batchSize` 32, `maxBatchDelay` 5 ms, a"
        " worker of one thread a core; Java 17; warmed for 15 s at least",
        warm_s=15,
        peer="torchserve",
    )


def _start_torchserve(launch: Launch) -> Start:
    store = launch.folder / "store"
    packed = store / "classify"
    (packed / "MAR-INF").mkdir(parents=True)
    manifest = {
        "runtime": "python",
        "model": {"modelName": "classify", "handler": "handler.py", "modelVersion": "1.0"},
    }
    (packed / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    for source in (PEERS / "torchserve" / "handler.py", PEERS / "shared" / "classifier.py"):
        (packed / source.name).write_bytes(source.read_bytes())
    model = {
        "defaultVersion": True,
        "marName": "classify",
        "minWorkers": launch.cores,
        "maxWorkers": launch.cores,
        "batchSize": _MAX_BATCH,
        "maxBatchDelay": _DELAY_MS,
        "responseTimeout": 120,
    }
    config = {
        "inference_address": f"http://127.0.0.1:{launch.port}",
        "management_address": f"http://127.0.0.1:{launch.port + 1}",
        "metrics_address": f"http://127.0.0.1:{launch.port + 2}",
        "grpc_inference_port": launch.port + 3,
        "grpc_management_port": launch.port + 4,
        "max_request_size": _BODY_BYTES,
        "max_response_size": _BODY_BYTES,
        "disable_token_authorization": "true",
        "job_queue_size": 4096,
        "models": json.dumps({"classify": {"1.0": model}}, separators=(",", ":")),
    }
    lines = [f"{key}={value}" for key, value in config.items()]
    (launch.folder / "config.properties").write_text("\n".join(lines) + "\n")
    command = [
        *(launch.program("torchserve"), "--start", "--foreground", "--disable-token-auth"),
        *("--model-store", str(store), "--models", "classify=classify"),
        *("--ts-config", str(launch.folder / "config.properties")),
    ]
    path = os.pathsep.join([launch.program(""), os.environ.get("PATH", "")])
    return Start(command, _environ(launch, PATH=path, LOG_LOCATION=str(launch.folder)))


def _ray() -> Contender:
    return Contender(
        name="ray",
        title="Ray Serve",
        packages=("ray", "onnxruntime", "pillow"),
        start=partial(_script, "ray", RAY_USAGE_STATS_ENABLED="0"),
        routes={
            "jpeg": Route("/", bodies.RAW, bodies.read_list),
            "files": Route("/", bodies.FORM, bodies.read_list),
            "tensor": Route("/", bodies.NPY, bodies.read_list),
        },
        settings="`@serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)`, a replica of"
        " one thread a core",
        peer="ray",
    )


def our_environment() -> Path:
    """Where ``adaresnet`` is: the serving environment if there is one, else this one."""
    serving = Path(__file__).parents[2] / ".venv"
    return serving if (serving / "bin" / "adaresnet").exists() else Path(sys.prefix)

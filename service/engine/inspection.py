"""What a model file is, by its own metadata and by ONNX Runtime, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from service.engine.bundle import read_bundle
from service.engine.digest import DigestState, check_digest
from service.engine.errors import ModelLoadError
from service.engine.onnx_file import look_through
from service.engine.session import Session, SessionOptions, read_own_metadata
from service.metadata import METADATA_KEY, ModelMetadata

_SILENT = 4  # ONNX Runtime's severity "fatal": what it has to say comes as an exception


@dataclass(frozen=True)
class Tensor:
    """An input or output of the graph, as ONNX Runtime tells."""

    name: str
    datatype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class FileDescription:
    """What a file is.

    Attributes:
        path: The file.
        size_bytes: Its size.
        sha256: Of the file, hex.
        digest: Whether the file is the one that was written.
        producer: What wrote the graph.
        inputs: Of the graph.
        outputs: Of the graph.
        operators: Kinds of operators in the graph, sorted.
        metadata: What the file, or the ``config.toml`` beside it, says of it; None without either.
        from_config: A ``config.toml`` says it, not the file.
    """

    path: Path
    size_bytes: int
    sha256: str
    digest: DigestState
    producer: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[str, ...]
    metadata: ModelMetadata | None
    from_config: bool


def describe_file(path: Path) -> FileDescription:
    """Look at a file. The graph is loaded but not run, unless a ``config.toml`` is to be tried.

    Raises:
        ModelLoadError: It is no ONNX model, its metadata is not valid, or its configuration does
            not fit.
    """
    bundle = read_bundle(path)
    operators = look_through(bundle.model).operators
    opened = _open(bundle.model)
    about = opened.get_modelmeta()
    metadata = read_own_metadata(about.custom_metadata_map.get(METADATA_KEY))
    from_config = metadata is None and bundle.config is not None
    if from_config:
        metadata = Session(bundle.model, SessionOptions(device="cpu"), bundle.config).metadata
    return FileDescription(
        path=path,
        size_bytes=len(bundle.model),
        sha256=bundle.digest,
        digest=check_digest(bundle.model, metadata.file_digest if metadata else None),
        producer=about.producer_name,
        inputs=tuple(Tensor(i.name, i.type, tuple(i.shape)) for i in opened.get_inputs()),
        outputs=tuple(Tensor(o.name, o.type, tuple(o.shape)) for o in opened.get_outputs()),
        operators=tuple(sorted({name for _, name in operators})),
        metadata=metadata,
        from_config=from_config,
    )


def _open(model: bytes) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(
            model, settings, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's own classes share no base
        raise ModelLoadError(
            f"ONNX Runtime can't load the model ({type(error).__name__}).",
            hint="The file is damaged or no ONNX model; export it again.",
        ) from error

"""Pictures that say who they are, and model files whose answers repeat it."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.metadata import INPUT_NAME, LOGITS_NAME, PROBABILITIES_NAME, Input, ModelMetadata
from tests.service.foreign_models import OPSET
from training.export.graph import with_metadata

PX = 16
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
BAD = (b"no picture", b"\x89PNG\r\n\x1a\n and then nothing", b"GIF89a")
# Red and green have so many levels each, far enough apart for lossy formats.
_LEVELS, _APART = 16, 16
IDENTITIES = _LEVELS**2
_CHANNELS = 32
_SHARPNESS = 0.1


def pixels_of(identities: list[int]) -> np.ndarray:
    """uint8 [N, 16, 16, 3] of one colour each, which is the identity."""
    colours = [(*_colour(identity), 128) for identity in identities]
    spread = np.array(colours, np.uint8)[:, None, None, :]
    return np.ascontiguousarray(np.broadcast_to(spread, (len(identities), PX, PX, 3)))


@lru_cache(maxsize=4096)
def file_of(identity: int, kind: str, width: int = PX, height: int = PX) -> bytes:
    """The same as an encoded picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (*_colour(identity), 128)).save(buffer, kind)
    return buffer.getvalue()


def _colour(identity: int) -> tuple[int, int]:
    red, green = divmod(identity, _LEVELS)
    return _APART // 2 + _APART * red, _APART // 2 + _APART * green


def write_model(path: Path, tag: str) -> str:
    """Write a model whose labels are ``tag:identity``.

    The nearest colour has the largest logit, a linear function of the mean colour. Convolutions
    whose result counts for nothing make a run as dear as that of a small real network.

    Returns:
        The first 12 digits of the file's SHA-256.
    """
    colours = np.array([_colour(identity) for identity in range(IDENTITIES)], np.float32)
    weight = np.zeros((3, IDENTITIES), np.float32)
    weight[:2] = 2 * _SHARPNESS * colours.T
    rng = np.random.default_rng(0)
    weights = {
        "weight": weight,
        "bias": -_SHARPNESS * (colours**2).sum(axis=1),
        "first": rng.normal(size=(_CHANNELS, 3, 3, 3)).astype(np.float32),
        "second": rng.normal(size=(_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32),
        "nothing": np.array(1e-30, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["means", "weight", "bias"], ["near"]),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c1", "second"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["c2"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "nothing"], ["tiny"]),
        helper.make_node("Add", ["near", "tiny"], [LOGITS_NAME]),
        helper.make_node("Softmax", [LOGITS_NAME], [PROBABILITIES_NAME], axis=-1),
    ]
    shape: list[str | int | None] = ["n", PX, PX, 3]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", IDENTITIES])
        for name in (LOGITS_NAME, PROBABILITIES_NAME)
    ]
    graph = helper.make_graph(
        nodes,
        "identities",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape)],
        outputs,
        [
            *(numpy_helper.from_array(value, name) for name, value in weights.items()),
            numpy_helper.from_array(np.array([1]), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    labels = [f"{tag}:{identity}" for identity in range(IDENTITIES)]
    data = with_metadata(model, ModelMetadata(labels=labels, input=Input(height=PX, width=PX)))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_bytes(data)
    partial.rename(path)
    return hashlib.sha256(data).hexdigest()[:12]

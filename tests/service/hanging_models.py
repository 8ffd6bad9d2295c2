"""Classifiers that answer any picture at once, but for a white one: that they compute for ages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.service.foreign_models import save

SIDE_PX = 8
CLASSES = 3
_CONFIG = '[output]\nkind = "logits"\n'
_AGES = 10**12  # rounds, of some hundred nanoseconds
# A window of a million numbers: once for most pictures, a million times for a white one, which is
# ten minutes. What is before it can be interrupted, and so must not take long.
_WINDOW, _AGES_PX = 1000, 2000


def looping(folder: Path) -> None:
    """White: a loop that doesn't end, between whose rounds a run can be interrupted."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Mul", ["before", "one"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    _write(
        folder,
        [
            helper.make_node("Where", ["white", "ages", "once"], ["rounds"]),
            helper.make_node("Loop", ["rounds", "", "scores"], ["logits"], body=body),
        ],
        {"ages": np.array(_AGES, np.int64), "once": np.array(1, np.int64)},
    )


def stuck(folder: Path) -> None:
    """White: a single operator that doesn't end, which nothing can interrupt."""
    _write(
        folder,
        [
            helper.make_node("Where", ["white", "ages", "once"], ["shape"]),
            helper.make_node("Expand", ["zero", "shape"], ["plane"]),
            helper.make_node("AveragePool", ["plane"], ["pooled"], kernel_shape=[_WINDOW, _WINDOW]),
            helper.make_node("ReduceMax", ["pooled"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["scores", "nothing"], ["logits"]),
        ],
        {
            "ages": np.array([1, 1, _AGES_PX, _AGES_PX], np.int64),
            "once": np.array([1, 1, _WINDOW, _WINDOW], np.int64),
            "zero": np.zeros((1, 1, 1, 1), np.float32),
        },
    )


def _write(folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    """Three classes, red, green and blue, by the mean of each channel; ``white`` is a boolean."""
    constants |= {
        "full": np.array(255, np.float32),
        "one": np.array(1, np.float32),
        "nearly": np.array(0.99, np.float32),
        "ten": np.array(10, np.float32),
    }
    head = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "full"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["means", "ten"], ["scores"]),
        helper.make_node("ReduceMin", ["means"], ["per_picture"], axes=[1], keepdims=0),
        helper.make_node("ReduceMax", ["per_picture"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "nearly"], ["white"]),
    ]
    folder.mkdir(parents=True)
    save(
        folder / "model.onnx",
        [*head, *nodes],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ("pixels", TensorProto.UINT8, ("n", SIDE_PX, SIDE_PX, 3)),
        ("logits", ["n", CLASSES]),
    )
    (folder / "config.toml").write_text(_CONFIG)

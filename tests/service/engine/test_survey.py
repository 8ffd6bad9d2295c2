from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.engine.draft import Choices, draft_config
from service.engine.errors import ModelLoadError
from service.engine.survey import Findings, Wishes, survey_model
from service.model_config import parse_config
from tests.service.foreign_models import keras_like, save, torch_legacy


@pytest.fixture
def path(tmp_path) -> Path:
    found: Path = tmp_path / "model.onnx"
    return found


def survey(path: Path, **wishes: object) -> Findings:
    return survey_model(path.read_bytes(), Wishes.model_validate(wishes))


def convolution(
    path: Path, shape: tuple[int | str, ...], *, channels: int, flat_side: int | None = None
) -> None:
    """Takes any size, or only one through a matrix behind it; the graph need not say so."""
    weight = np.ones((4, channels, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"])]
    weights = [numpy_helper.from_array(weight, "w")]
    if flat_side:
        matrix = np.ones((4 * flat_side**2, 5), np.float32)
        weights.append(numpy_helper.from_array(matrix, "m"))
        nodes.append(helper.make_node("Flatten", ["c"], ["f"]))
        nodes.append(helper.make_node("MatMul", ["f", "m"], ["y"]))
    else:
        nodes.append(helper.make_node("GlobalAveragePool", ["c"], ["p"]))
        nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    save(path, nodes, weights, ("x", TensorProto.FLOAT, shape), ("y", ["n", "classes"]))


def test_a_graph_that_says_all(path):
    torch_legacy(path)
    found = survey(path)
    assert (found.layout, found.datatype, found.channels) == ("NCHW", "float32", 3)
    assert (found.height, found.width, found.batch_size) == (224, 224, None)
    assert (found.kind, found.classes, found.labels) == ("logits", 5, None)
    assert found.sources == {
        "name": "graph", "datatype": "graph", "layout": "graph", "height": "graph",
        "width": "graph", "batch_size": "run", "color": "assumed", "output": "graph",
        "kind": "run",
    }  # fmt: skip


def test_labels_and_probabilities(path):
    keras_like(path, metadata={"names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}"})
    found = survey(path)
    assert (found.labels, found.labels_key) == (["a", "b", "c", "d"], "names")
    assert (found.layout, found.datatype, found.kind) == ("NHWC", "uint8", "probabilities")
    assert (found.color, found.sources["color"]) == ("grey", "graph")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_graph_that_says_nothing_is_run_until_it_runs(path, channels):
    convolution(path, ("n", "a", "b", "c"), channels=channels, flat_side=28)
    found = survey(path)
    assert (found.layout, found.channels) == ("NCHW", channels)
    assert (found.height, found.width, found.sources["height"]) == (28, 28, "run")


def test_a_graph_that_takes_any_size(path):
    convolution(path, ("n", 3, "h", "w"), channels=3)
    found = survey(path)
    assert (found.height, found.sources["height"]) == (224, "assumed")
    found = survey(path, height=64, width=48)
    assert (found.height, found.width, found.sources["width"]) == (64, 48, "given")


def test_a_batch_that_is_fixed_inside(path):
    reshape = numpy_helper.from_array(np.array([1, 3], np.int64), "shape")
    save(
        path,
        [
            helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("Reshape", ["means", "shape"], ["y"]),
        ],
        [reshape],
        ("x", TensorProto.FLOAT, ("n", 3, 4, 4)),
        ("y", ["n", 3]),
    )
    assert survey(path).batch_size == 1


def test_what_can_not_be_served_says_what_is_wrong_with_the_likeliest_way(path):
    convolution(path, ("n", "a", "b", "c"), channels=7)
    with pytest.raises(ModelLoadError, match="fails on a picture of 224 x 224"):
        survey(path)
    torch_legacy(path)
    with pytest.raises(ModelLoadError, match=r"input\.height is 32, but the graph has 224"):
        survey(path, height=32)
    with pytest.raises(ModelLoadError, match=r"output\.name is 'z'"):
        survey(path, output="z")


@pytest.mark.parametrize(
    ("choices", "mean", "assumed"),
    [
        (Choices(), [0.485, 0.456, 0.406], True),
        (Choices(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), [0.5, 0.5, 0.5], False),
        (Choices(std=(0.5, 0.5, 0.5)), [0.0, 0.0, 0.0], True),
        (Choices(pixel_max=255.0), [0.0, 0.0, 0.0], True),
    ],
)
def test_the_draft_marks_what_it_assumes(path, choices, mean, assumed):
    torch_legacy(path)
    draft = draft_config(survey(path), choices, "0" * 64, None)
    text = draft.text("Heading.\nMore.")
    config = parse_config(text)
    assert config.normalization is not None
    assert config.normalization.mean == mean
    assert ("mean" in {line.key for line in draft.assumed}) is assumed
    assert text.startswith("# Heading.\n# More.\n")


def test_names_of_any_kind_come_back_from_the_file(path):
    name = 'a"\\\n\x7f\u2028é[x]#'
    pool = helper.make_node("GlobalAveragePool", [name], ["p"])
    flat = helper.make_node("Flatten", ["p"], ["y"])
    other = helper.make_node("Identity", ["y"], ["other\n[x]\nkey = 1"])
    save(
        path, [pool, flat, other], [], (name, TensorProto.FLOAT, ("n", 3, 4, 4)),
        ("y", ["n", 3]), ("other\n[x]\nkey = 1", ["n", 3]),
    )  # fmt: skip
    draft = draft_config(survey(path), Choices(description="Ein\nBild\x7f"), "0" * 64, None)
    assert tomllib.loads(draft.text("x"))["input"]["name"] == name
    assert parse_config(draft.text("x")).description == "Ein\nBild\x7f"

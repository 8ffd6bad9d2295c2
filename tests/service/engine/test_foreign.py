from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from service.engine.errors import InferenceError, ModelLoadError
from service.engine.session import Session, SessionOptions
from service.metadata import Resize
from service.model_config import parse_config
from tests.service.foreign_models import keras_like, save, torch_legacy

CPU = SessionOptions("cpu")
LOGITS = "[normalization]\n[output]\nkind = 'logits'\n"
PROBABILITIES = "[output]\nkind = 'probabilities'\n"
IMAGENET = """
[normalization]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[output]
kind = 'logits'
"""


def load(path: Path, config: str) -> Session:
    return Session(path.read_bytes(), CPU, parse_config(config))


def refuse(path: Path, config: str, sentence: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(path, config)
    assert caught.value.detail == sentence


def linear(
    path: Path,
    *,
    datatype: int = TensorProto.FLOAT,
    shape: tuple[int | str, ...] = ("n", 3, 4, 4),
    end: str = "Identity",
    classes: int = 2,
) -> None:
    """Logits are sums over the mean pixel; ``end`` is what becomes of them."""
    weight = np.linspace(-2, 2, 3 * classes, dtype=np.float32).reshape(3, classes)
    save(
        path,
        [
            helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["means", "weight"], ["z"]),
            helper.make_node(end, ["z"], ["y"]),
        ],
        [numpy_helper.from_array(weight, "weight")],
        ("x", datatype, shape),
        ("y", [shape[0], classes]),
    )


@pytest.fixture
def path(tmp_path) -> Path:
    folder: Path = tmp_path
    return folder / "model.onnx"


@pytest.fixture
def images(rng) -> np.ndarray:
    pixels: np.ndarray = rng.integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    return pixels


def test_normalised_channels_first_gives_what_pytorch_gives(path, rng):
    net = torch_legacy(path)
    session = load(path, IMAGENET)
    images = rng.integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)
    normalised = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        logits = net(torch.from_numpy(normalised.transpose(0, 3, 1, 2).astype(np.float32)))
    got = session.run(images)
    assert got.logits.dtype == got.probabilities.dtype == np.float32
    assert np.abs(got.logits - logits.numpy()).max() < 1e-4
    assert np.abs(got.probabilities - logits.softmax(1).numpy()).max() < 1e-5
    assert session.metadata.labels == ["0", "1", "2", "3", "4"]
    assert (session.metadata.input.datatype, session.metadata.input.layout) == ("uint8", "NHWC")


def test_pixels_channels_last_and_probabilities_are_taken_as_they_are(path, rng):
    weight, bias = keras_like(path, shape=("n", 20, 30, 3))
    session = load(path, PROBABILITIES + "[input.resize]\ncrop = 0.5\nfilter = 'bicubic'\n")
    images = rng.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    scores = (images / 255).mean((1, 2)) @ weight + bias
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    got = session.run(images)
    assert np.abs(got.probabilities - expected).max() < 1e-5
    assert np.allclose(np.exp(got.logits), got.probabilities, atol=1e-6)
    assert session.metadata.input.resize == Resize(filter="bicubic", crop=0.5)
    assert (session.metadata.input.height, session.metadata.input.width) == (20, 30)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_fixed_batch_is_filled_up_and_cut(path, images, batch):
    linear(path, shape=("n", 3, 4, 4), classes=5)
    whole = load(path, LOGITS).run(images)
    linear(path, shape=(batch, 3, 4, 4), classes=5)
    pieces = load(path, LOGITS).run(images)
    assert np.allclose(pieces.logits, whole.logits, atol=1e-6)
    assert pieces.probabilities.shape == (7, 5)


def test_open_sides_take_the_configurations(path, images):
    linear(path, shape=("n", 3, "h", "w"))
    refuse(
        path,
        LOGITS,
        "config.toml: input.height is missing; the graph takes any, so config.toml must say it.",
    )
    session = load(path, LOGITS + "[input]\nheight = 4\nwidth = 4\nlayout = 'NCHW'\n")
    assert session.run(images).logits.shape == (7, 2)


@pytest.mark.parametrize("datatype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats(path, images, datatype):
    linear(path)
    expected = load(path, LOGITS).run(images).logits
    linear(path, datatype=datatype)
    assert np.allclose(load(path, LOGITS).run(images).logits, expected, atol=1e-2)


def test_float16_outputs(path, images):
    weight = np.eye(3, dtype=np.float16) * 5
    save(
        path,
        [
            helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["means", "weight"], ["z"]),
            helper.make_node("Softmax", ["z"], ["y"]),
        ],
        [numpy_helper.from_array(weight, "weight")],
        ("x", TensorProto.FLOAT16, ("n", 3, 4, 4)),
        ("y", ["n", 3]),
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, path)
    got = load(path, PROBABILITIES + "[normalization]\n").run(images)
    assert got.probabilities.dtype == np.float32
    assert np.allclose(got.probabilities.sum(1), 1, atol=5e-3)


@pytest.mark.parametrize(("end", "kind"), [("Identity", "logits"), ("Sigmoid", "probabilities")])
def test_a_single_value_means_two_classes(path, images, end, kind):
    linear(path, end=end, classes=1)
    config = f"labels = ['no', 'yes']\n[normalization]\n[output]\nkind = '{kind}'\n"
    got = load(path, config).run(images)
    linear(path, classes=1)
    z = (images / 255).mean((1, 2)) @ np.linspace(-2, 2, 3)
    assert np.allclose(got.probabilities[:, 1], 1 / (1 + np.exp(-z)), atol=1e-5)
    assert np.allclose(got.probabilities.sum(1), 1, atol=1e-6)


def test_an_output_is_chosen_and_the_others_are_ignored(path, images):
    save(
        path,
        [
            helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0),
            helper.make_node("Identity", ["x"], ["features"]),
        ],
        [],
        ("x", TensorProto.FLOAT, ("n", 3, 4, 4)),
        ("features", ["n", 3, 4, 4]),
        ("y", ["n", 3]),
    )
    refuse(path, LOGITS, "config.toml: output.name is missing; the graph has 'features', 'y'.")
    assert load(path, LOGITS + "name = 'y'\n").run(images).logits.shape == (7, 3)
    refuse(
        path,
        LOGITS + "name = 'features'\n",
        "The graph's output 'features' has the shape [1, 3, 4, 4] for 1 pictures; a classifier"
        " gives [N, classes].",
    )


def test_a_run_that_fails_later_is_an_inference_error(path, images):
    linear(path)
    with pytest.raises(InferenceError):
        load(path, LOGITS).run(images[:, :3])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            "[input]\nname = 'data'\n",
            "input.name is 'data', but the graph has 'x'.",
        ),
        ("[input]\nheight = 5\n", "input.height is 5, but the graph has 4."),
        (
            "[input]\ndatatype = 'uint8'\n",
            "input.datatype is 'uint8', but the graph has 'float32'.",
        ),
        (
            "[input]\nlayout = 'NHWC'\n",
            "input.layout is 'NHWC', but the graph takes ['any', 3, 4, 4]; 'NCHW' would be right.",
        ),
        ("labels = ['a']\n", "labels has 1 entries; the graph has 2."),
        (
            "[normalization]\ncolor = 'grey'\n",
            "normalization.color is 'grey', but the graph takes 3 channels; 'rgb' would be right.",
        ),
        (
            "[normalization]\nmean = [0.5]\n",
            "normalization.mean has 1 values, but the graph takes 3 channels.",
        ),
        ("[output]\nkind='logits'\nname = 'z'\n", "output.name is 'z', but the graph has 'y'."),
        (
            "[output]\nkind = 'probabilities'\n",
            "output.kind is 'probabilities', but the output sums to 0.5861 on a random picture;"
            " 'logits' would be right.",
        ),
    ],
)
def test_a_configuration_that_does_not_fit(path, config, sentence):
    linear(path)
    for table in ("normalization", "output"):
        if f"[{table}]" not in config:
            config += f"[{table}]\n" + ("kind = 'logits'\n" if table == "output" else "")
    if "sums to" in sentence:
        with pytest.raises(ModelLoadError, match=r"sums to .* 'logits' would be right"):
            load(path, config)
    else:
        refuse(path, config, f"config.toml: {sentence}")


def test_what_must_be_said(path):
    linear(path)
    refuse(
        path,
        "[normalization]\n",
        "config.toml: output.kind is missing; 'logits' or 'probabilities' says what the graph"
        " gives.",
    )
    refuse(
        path,
        PROBABILITIES,
        "config.toml: [normalization] is missing; the graph takes float32, so it must say how"
        " pixels are scaled, for example mean = [0.5], std = [0.5].",
    )
    with pytest.raises(ModelLoadError, match=r"there is no config\.toml"):
        Session(path.read_bytes(), CPU)


def test_probabilities_are_not_softmaxed_twice(path):
    keras_like(path)
    refuse(
        path,
        "[output]\nkind = 'logits'\n",
        "config.toml: output.kind is 'logits', but the output sums to 1 on random pictures;"
        " 'probabilities' would be right.",
    )
    refuse(
        path,
        PROBABILITIES + "[normalization]\nmean = [0.5]\n",
        "config.toml: normalization.mean is given, but the graph takes uint8, which are pixels as"
        " they are; leave it out.",
    )


def test_a_batch_that_is_fixed_inside(path, images):
    save(
        path,
        [
            helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("Reshape", ["means", "shape"], ["y"]),
        ],
        [numpy_helper.from_array(np.array([1, 3], np.int64), "shape")],
        ("x", TensorProto.FLOAT, ("n", 3, 4, 4)),
        ("y", ["n", 3]),
    )
    refuse(
        path,
        LOGITS,
        "config.toml: input.batch_size is missing; the graph runs one picture but not 3 at once: 1"
        " would be right.",
    )
    assert load(path, LOGITS + "[input]\nbatch_size = 1\n").run(images).logits.shape == (7, 3)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (("n", 48), r"'x' has 2 dimensions; pictures have four"),
        (("n", 4, 4, 4), r"neither the second nor the last size is 1 or 3 channels"),
        (("n", 3, 4, 4097), r"width of 4097 pixels; the limit is 4096"),
    ],
)
def test_what_is_no_image_classifier(path, shape, words):
    plain = helper.make_node("Identity", ["x"], ["y"])
    save(path, [plain], [], ("x", TensorProto.FLOAT, shape), ("y", list(shape)))
    with pytest.raises(ModelLoadError, match=words):
        load(path, LOGITS)


def test_outputs_that_are_not_finite(path):
    linear(path, end="Log")
    with pytest.raises(ModelLoadError, match="not finite on random pictures"):
        load(path, LOGITS)


def test_our_own_file_may_be_renamed_but_not_reinterpreted(exported):
    data = exported.result.path.read_bytes()
    config = parse_config("description = 'Farben'\nlabels = ['blau', 'grün', 'rot']\n")
    session = Session(data, CPU, config)
    assert session.metadata.labels == ["blau", "grün", "rot"]
    assert session.metadata.description == "Farben"
    assert session.metadata.golden == exported.result.metadata.golden
    for text, sentence in (
        ("labels = ['a']", "labels has 1 entries; the model has 3."),
        (
            LOGITS,
            "[normalization] is given, but this model says that itself; only description, labels"
            " and sha256 may be.",
        ),
    ):
        with pytest.raises(ModelLoadError) as caught:
            Session(data, CPU, parse_config(text))
        assert caught.value.detail == f"config.toml: {sentence}"

from __future__ import annotations

import contextlib
import time

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.engine.errors import ModelLoadError
from service.engine.onnx_file import check_model_file, look_through
from tests.conftest import MODELS
from tests.service.foreign_models import keras_like

MNIST = (MODELS / "mnist" / "1" / "model.onnx").read_bytes()
PICTURES = ("x", TensorProto.FLOAT, ("n", 3, 4, 4))


def model(*nodes: onnx.NodeProto, **graph: object) -> onnx.ModelProto:
    info = helper.make_tensor_value_info(*PICTURES)
    return helper.make_model(helper.make_graph(list(nodes), "g", [info], [info], **graph))  # type: ignore[arg-type]


def message(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes([tag, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + content


def refuse(proto: onnx.ModelProto | bytes, words: str) -> None:
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    with pytest.raises(ModelLoadError, match=words):
        check_model_file(data)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*/*/model.onnx")), ids=str)
def test_our_own_models_pass(path):
    check_model_file(path.read_bytes())
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert {name for _, name in look_through(path.read_bytes()).operators} == operators


@pytest.mark.parametrize("content", [b"", b"onnx", b"\x00" * 100, b"\x08\x07", MNIST[:5000]])
def test_what_is_no_model(content):
    refuse(content, "no ONNX model, or a damaged one")


def test_custom_operators_anywhere(tmp_path):
    custom = helper.make_node("Evil", ["x"], ["x"], domain="com.evil")
    refuse(model(custom), "custom operator 'com.evil::Evil'")
    branch = helper.make_graph([custom], "b", [], [])
    for attributes in ({"then_branch": branch}, {"graphs": [branch]}):
        refuse(model(helper.make_node("If", ["x"], ["x"], **attributes)), "Evil")
    inside = model()
    inside.functions.append(helper.make_function("local", "F", ["x"], ["x"], [custom], []))
    refuse(inside, "Evil")
    refuse(model(helper.make_node("EPContext", [], [], domain="com.microsoft")), "EPContext")


def test_functions_that_the_file_defines_are_no_custom_operators():
    proto = model(helper.make_node("F", ["x"], ["x"], domain="local"))
    refuse(proto, "local::F")
    proto.functions.append(helper.make_function("local", "F", ["x"], ["x"], [], []))
    check_model_file(proto.SerializeToString())


def external(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd"])
def test_external_data_anywhere(location):
    weights = external(location)
    refuse(model(initializer=[weights]), location)
    refuse(model(helper.make_node("Constant", [], ["w"], value=weights)), location)
    marked = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    marked.data_location = TensorProto.EXTERNAL
    refuse(model(initializer=[marked]), "another file")


def test_shapes_that_the_file_can_not_fill():
    for dims in ([1 << 40], [1 << 20, 1 << 20], [-1], [1 << 62, 4]):
        tensor = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")
        refuse(model(initializer=[tensor]), "'big' claims more elements")
    empty = numpy_helper.from_array(np.zeros((0, 5), np.float32), "empty")
    check_model_file(model(initializer=[empty]).SerializeToString())


def test_sparse_tensors():
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    sparse = helper.make_sparse_tensor(values, indices, [1 << 40])
    refuse(model(sparse_initializer=[sparse]), "sparse")


def test_depth_is_bounded():
    graph = b""
    for _ in range(40):
        for tag in (6 << 3 | 2, 5 << 3 | 2, 1 << 3 | 2):  # graph in attribute in node in graph
            graph = message(tag, graph)
    refuse(message(7 << 3 | 2, graph), "nested more than")


def test_many_parts_do_not_take_long():
    flood = b"\x3a" + b"\x80\x80\x80\x01" + b"\x08\x00" * (1 << 20)
    began = time.monotonic()
    refuse(flood, "more than 1000000 parts")
    assert time.monotonic() - began < 60


def test_a_domain_can_not_be_hidden_behind_a_field_of_another_kind():
    node = helper.make_node("Evil", ["x"], ["x"], domain="com.evil").SerializeToString()
    proto = model()
    data = proto.SerializeToString()
    hidden = node + bytes([7 << 3 | 0, 0])  # the number 0 in the domain's place is no domain
    graph = b"\x0a" + bytes([len(hidden)]) + hidden
    refuse(data + b"\x3a" + bytes([len(graph)]) + graph, "Evil")


@given(st.binary(max_size=300))
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_any_bytes_are_refused_or_taken(data):
    with contextlib.suppress(ModelLoadError):
        check_model_file(data)


@settings(deadline=None)
@given(st.data())
def test_any_change_of_a_model_is_refused_or_taken(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "keras.onnx"
    if not path.exists():
        keras_like(path, metadata={"names": "{}"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with contextlib.suppress(ModelLoadError):
        check_model_file(bytes(content))

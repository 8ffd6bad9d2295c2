"""Exports in float16 and in 8 bits: what they keep to, what they say, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors import safe_open
from safetensors.torch import save_file

from service.engine.session import Session, SessionOptions
from service.metadata import Input, ModelMetadata
from tests.conftest import Exported
from training.checkpoint import FILE_NAME
from training.export.arrays import ConvStep, FusedNetwork, Linear
from training.export.fold import FLOAT16, FoldError, fold_network
from training.export.fuse import normalization
from training.export.graph import GraphTooLargeError, build_graph, check_size, with_metadata
from training.export.pipeline import ExportRequest, ExportResult, export_checkpoint
from training.export.precision import BOUNDS, enforce_bounds, golden_tolerance
from training.export.quantize import largest_activation
from training.export.rounding import with_rounding
from training.export.verify import Comparison, VerificationError


def quiet(line: str) -> None:
    pass


def changed(run: Path, into: Path, part: str, value: float) -> Path:
    """Copy a checkpoint with every tensor whose name holds ``part`` set to one value."""
    with safe_open(run / FILE_NAME, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    names = [name for name in tensors if part in name]
    assert names
    for name in names:
        tensors[name] = torch.full_like(tensors[name], value)
    into.mkdir()
    save_file(tensors, into / FILE_NAME, metadata=metadata)
    return into


@pytest.fixture(scope="session")
def by_precision(
    trained_run: Path, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ExportResult]:
    folder = tmp_path_factory.mktemp("precisions")
    results = {"fp32": exported.result}
    for precision in ("fp16", "int8"):
        out = folder / f"{precision}.onnx"
        request = ExportRequest(trained_run, precision=precision, out=out)
        results[precision] = export_checkpoint(request, quiet)
    return results


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_precision_proves_itself_and_says_how(by_precision, precision):
    result = by_precision[precision]
    metadata = Session(result.path, SessionOptions("cpu")).metadata
    assert metadata == result.metadata
    assert metadata.precision == precision
    verification, accuracy = metadata.verification, metadata.accuracy
    assert verification is not None
    assert accuracy is not None
    bounds = BOUNDS[precision]
    allowed = bounds.tolerance * verification.logit_range
    assert verification.max_abs_difference <= allowed
    assert verification.top1_agreement >= bounds.agreement
    assert verification.reference_accuracy is not None
    assert accuracy.top1 >= verification.reference_accuracy - 0.01
    assert verification.batch_difference is not None
    assert verification.batch_difference <= allowed
    assert verification.forced is None
    assert (verification.rounded_difference is None) is (precision != "fp16")
    assert (verification.calibration_images == 192) is (precision == "int8")


def test_float16_is_float16_inside_and_float32_outside(by_precision):
    model = onnx.load(by_precision["fp16"].path)
    weights = {w.data_type for w in model.graph.initializer}
    assert weights == {TensorProto.FLOAT16}
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    assert types["stage1_block1.joined"] == TensorProto.FLOAT16
    outputs = {output.type.tensor_type.elem_type for output in model.graph.output}
    assert outputs == {TensorProto.FLOAT}
    size = {p: r.path.stat().st_size for p, r in by_precision.items()}
    assert size["fp16"] < 0.6 * size["fp32"]
    after = by_precision["fp16"].metadata.verification.operators_after
    fp32 = by_precision["fp32"].metadata.verification.operators_after
    assert after == fp32 | {"Cast": 2}
    assert after == by_precision["fp16"].metadata.verification.operators_plain_twin


def test_float16_shows_what_a_gpu_would_round(by_precision):
    verification = by_precision["fp16"].metadata.verification
    # The CPU rounds the weights only: it can't stand for a GPU, and the file says both.
    assert verification.rounded_difference > 1.05 * verification.max_abs_difference
    assert verification.rounded_difference <= BOUNDS["fp16"].tolerance * verification.logit_range
    golden = by_precision["fp16"].metadata.golden
    assert golden.tolerance >= verification.logit_range * 1e-3


def test_int8_quantizes_every_convolution_and_join_a_channel_at_a_time(by_precision):
    model = onnx.load(by_precision["int8"].path)
    made_by = {node.output[0]: node for node in model.graph.node}
    shapes = {w.name: (list(w.dims), w.data_type) for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Add", "Sub"):
            sources = [made_by[name].op_type for name in node.input]
            assert sources == ["DequantizeLinear"] * len(sources), node.name
        if node.op_type == "Conv":
            weight = made_by[node.input[1]]
            dims, datatype = shapes[weight.input[0]]
            assert datatype == TensorProto.INT8
            assert shapes[weight.input[1]][0] == [dims[0]]  # one scale a channel of the output
    assert not any(node.op_type == "Relu" for node in model.graph.node)  # the ranges clip
    (image,) = model.graph.input
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    assert {(o.domain, o.version) for o in model.opset_import} == {("", 17)}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_same_checkpoint_gives_the_same_bytes(by_precision, trained_run, tmp_path, precision):
    request = ExportRequest(trained_run, precision=precision, out=tmp_path / "again.onnx")
    again = export_checkpoint(request, quiet).path
    assert again.read_bytes() == by_precision[precision].path.read_bytes()


def test_an_export_that_loses_too_much_is_refused_unless_forced(trained_run, tmp_path):
    # No export can gain half of all images, so this stands for any loss over its bound.
    request = ExportRequest(
        trained_run, "lossy", tmp_path, precision="int8", max_accuracy_loss=-0.5
    )
    with pytest.raises(VerificationError, match=r"--max-accuracy-loss is -0\.5.*--force"):
        export_checkpoint(request, quiet)
    assert list(tmp_path.iterdir()) == []
    result = export_checkpoint(replace(request, force=True), quiet)
    verification = result.metadata.verification
    assert verification is not None
    assert verification.forced is not None
    assert "--max-accuracy-loss" in verification.forced


GOOD = Comparison(
    images=100,
    max_abs_difference=1e-6,
    typical_difference=1e-7,
    batch_difference=0.0,
    logit_range=10.0,
    top1_agreement=1.0,
    accuracy=0.9,
    reference_accuracy=0.9,
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_abs_difference": 3.0}, "differs from PyTorch by 3"),
        ({"max_abs_difference": float("nan")}, "differs from PyTorch"),
        ({"batch_difference": 3.0}, "alone and among others"),
        ({"top1_agreement": 0.9}, "first class"),
        ({"accuracy": 0.88}, "right for 88.00%"),
    ],
)
def test_every_bound_is_held(changes, said):
    assert enforce_bounds(GOOD, "int8", 0.01, force=False) is None
    worse = replace(GOOD, **changes)
    with pytest.raises(VerificationError, match=said):
        enforce_bounds(worse, "int8", 0.01, force=False)
    assert said in (enforce_bounds(worse, "int8", 0.01, force=True) or "")


def test_float32_is_exact_and_can_not_be_forced():
    with pytest.raises(VerificationError, match="differs"):
        enforce_bounds(replace(GOOD, max_abs_difference=0.01), "fp32", 0.01, force=True)


def test_the_golden_tolerance_covers_what_was_measured_and_no_less_than_other_devices():
    assert golden_tolerance(1e-6, 1e-7, 10.0) == pytest.approx(1e-2)
    assert golden_tolerance(0.3, 0.1, 10.0) == pytest.approx(0.6)
    assert golden_tolerance(0.1, 0.3, 10.0) == pytest.approx(0.6)


def test_a_scale_that_float16_can_not_carry_stays_a_mul(trained_run, tmp_path):
    run = changed(trained_run, tmp_path / "run", "stage1_block1.shortcut_scale", 0.01)
    kept = {
        precision: export_checkpoint(
            ExportRequest(
                run, precision=precision, out=tmp_path / precision, max_accuracy_loss=1.0
            ),
            quiet,
        ).kept_muls
        for precision in ("fp32", "fp16")
    }
    assert kept == {"fp32": (), "fp16": ("stage1_block1",)}


@pytest.mark.parametrize(
    ("gain", "said"), [(1e7, "float16 can't; export fp32"), (2e4, "reaches .*; float16 ends")]
)
def test_what_float16_can_not_hold_is_refused(trained_run, tmp_path, gain, said):
    run = changed(trained_run, tmp_path / "run", "stem.unit.norm.weight", gain)
    out = tmp_path / "x.onnx"
    with pytest.raises(FoldError, match=said):
        export_checkpoint(ExportRequest(run, precision="fp16", out=out), quiet)
    assert not out.exists()


def stem_of(gain: float) -> FusedNetwork:
    """A network of one convolution that multiplies a grey picture."""
    stem = replace(normalization([0.0], [1.0]), weight=np.full((1, 1, 1, 1), gain))
    return FusedNetwork(
        normalization=normalization([0.0], [1.0]),
        steps=(ConvStep("stem", stem),),
        classifier=Linear(np.array([[1.0], [-1.0]]), np.zeros(2)),
    )


def test_rounding_overflows_where_float16_does():
    size = Input(height=2, width=2)
    metadata = ModelMetadata(labels=["a", "b"], input=size)
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    logits = {}
    for gain in (6e4, 6.55e4):
        graph = build_graph(fold_network(stem_of(gain), FLOAT16), size, half=True)
        logits[gain] = [
            Session(with_metadata(each, metadata), SessionOptions("cpu")).run(white).logits[0, 0]
            for each in (graph, with_rounding(graph))
        ]
    assert logits[6e4][1] == pytest.approx(6e4, rel=1e-3)
    assert np.isfinite(logits[6.55e4]).all()
    graph = build_graph(fold_network(stem_of(6e4)), size)
    assert largest_activation(graph, torch.from_numpy(white)) == pytest.approx(6e4, rel=1e-3)
    brighter = stem_of(6e4)
    doubled = replace(brighter, normalization=brighter.normalization.times(np.array([2.0])))
    graph = build_graph(fold_network(doubled, FLOAT16), size, half=True)
    rounded = Session(with_metadata(with_rounding(graph), metadata), SessionOptions("cpu"))
    assert not np.isfinite(rounded.run(white).logits).all()


def test_weights_that_no_file_holds_are_refused():
    check_size(2**30)
    with pytest.raises(GraphTooLargeError, match=r"2\.15 GB"):
        check_size(2**31)


def test_neither_name_nor_file_is_refused_and_a_file_is_never_written_over(exported, trained_run):
    with pytest.raises(Exception, match="neither a name"):
        export_checkpoint(ExportRequest(trained_run), quiet)
    before = exported.result.path.read_bytes()
    with pytest.raises(Exception, match="exists"):
        export_checkpoint(ExportRequest(trained_run, out=exported.result.path), quiet)
    assert exported.result.path.read_bytes() == before

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from service.engine.decode import decode_image
from service.engine.publish import PublishError
from service.engine.session import Session, SessionOptions
from tests.conftest import CLASSES, tiny_config
from training.checkpoint import FILE_NAME, CheckpointError
from training.data.dataset import DataError
from training.export import pipeline
from training.export.arrays import ConvStep, FoldedNetwork, FusedNetwork
from training.export.fold import FoldError, fold_network
from training.export.pipeline import ExportRequest, export_checkpoint
from training.export.verify import VerificationError
from training.loop import fit


def quiet(line: str) -> None:
    pass


def with_scales(run: Path, into: Path, scales: list[float]) -> Path:
    """Copy a checkpoint with other shortcut scales."""
    with safe_open(run / FILE_NAME, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    names = sorted(n for n in tensors if n.startswith("network.") and n.endswith("scale.raw"))
    assert len(names) == len(scales)
    for name, scale in zip(names, scales, strict=True):
        tensors[name] = torch.tensor(scale)
    into.mkdir()
    save_file(tensors, into / FILE_NAME, metadata=metadata)
    return into


def test_what_the_file_says_of_itself(exported):
    metadata = Session(exported.result.path, SessionOptions("cpu")).metadata
    assert metadata == exported.result.metadata
    assert metadata.labels == list(CLASSES)
    verification = metadata.verification
    assert verification is not None
    assert verification.images == 48
    assert verification.max_abs_difference <= 1e-4 * verification.logit_range
    assert verification.top1_agreement == 1
    assert verification.operators_before["BatchNormalization"] == 9
    assert verification.operators_before["Mul"] == 3
    assert verification.operators_after == verification.operators_plain_twin
    assert not {"Mul", "BatchNormalization", "Div"} & verification.operators_after.keys()
    assert metadata.accuracy is not None
    assert metadata.accuracy.top1 > 0.8
    assert metadata.golden is not None
    assert len({image.media_type for image in metadata.golden.images}) == 2


def test_golden_images_come_out_as_pytorch_had_them(exported):
    session = Session(exported.result.path, SessionOptions("cpu"))
    golden = session.metadata.golden
    assert golden is not None
    for image in golden.images:
        pixels = decode_image(image.data, 16, 16, session.metadata.input.resize)
        logits = session.run(pixels[None]).logits[0]
        assert np.abs(logits - np.array(image.logits)).max() <= golden.tolerance


def test_negative_scales_become_sub_and_zero_ones_vanish(trained_run, tmp_path):
    run = with_scales(trained_run, tmp_path / "run", [-0.7, 0.0, -1.5])
    result = export_checkpoint(ExportRequest(run, "signs", tmp_path / "models"), quiet)
    verification = result.metadata.verification
    assert verification is not None
    assert verification.operators_after["Sub"] == 1  # stage 1 is an identity shortcut
    assert verification.operators_after["Add"] == 1  # a projection takes the sign into its weights
    assert "Mul" not in verification.operators_after
    assert result.kept_muls == ()


def test_a_scale_out_of_range_keeps_its_mul_and_says_so(trained_run, tmp_path):
    run = with_scales(trained_run, tmp_path / "run", [1e-8, 1.0, 1.0])
    result = export_checkpoint(ExportRequest(run, "tiny", tmp_path / "models"), quiet)
    assert result.kept_muls == ("stage1_block1",)
    assert result.metadata.verification is not None
    assert result.metadata.verification.operators_after["Mul"] == 1


def test_the_same_checkpoint_gives_the_same_bytes(trained_run, tmp_path):
    digests = set()
    for attempt in range(2):
        request = ExportRequest(trained_run, "same", tmp_path / f"models{attempt}")
        data = export_checkpoint(request, quiet).path.read_bytes()
        digests.add(hashlib.sha256(data).hexdigest())
    assert len(digests) == 1


def test_versions_count_up_and_are_never_overwritten(trained_run, tmp_path):
    request = ExportRequest(trained_run, "counted", tmp_path)
    paths = [export_checkpoint(request, quiet).path for _ in range(2)]
    assert [path.parent.name for path in paths] == ["1", "2"]
    assert sorted(path.name for path in (tmp_path / "counted").iterdir()) == ["1", "2"]


def test_a_graph_that_differs_from_pytorch_is_not_written(trained_run, tmp_path, monkeypatch):
    def wrong_fold(fused: FusedNetwork) -> FoldedNetwork:
        folded = fold_network(fused)
        stem, *rest = folded.steps
        assert isinstance(stem, ConvStep)
        wrong = replace(stem, conv=stem.conv.times(np.full(stem.conv.channels_out, 1.01)))
        return replace(folded, steps=(wrong, *rest))

    monkeypatch.setattr(pipeline, "fold_network", wrong_fold)
    with pytest.raises(VerificationError, match="Nothing was written"):
        export_checkpoint(ExportRequest(trained_run, "wrong", tmp_path), quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_other_operators_is_not_written(trained_run, tmp_path, monkeypatch):
    def unfolded(fused: FusedNetwork) -> FoldedNetwork:
        folded = fold_network(fused)
        # The first fold is the network's, the second its plain twin's.
        if not calls:
            calls.append(1)
            stem, *rest = folded.steps
            assert isinstance(stem, ConvStep)
            return replace(folded, steps=(replace(stem, relu=False), *rest))
        return folded

    calls: list[int] = []
    monkeypatch.setattr(pipeline, "fold_network", unfolded)
    with pytest.raises(VerificationError, match="operators"):
        export_checkpoint(ExportRequest(trained_run, "wrong", tmp_path), quiet)
    assert list(tmp_path.iterdir()) == []


def test_held_out_images_must_be_the_runs_own(image_folder, trained_run, tmp_path):
    run = tmp_path / "run"
    fit(tiny_config(image_folder / "train", run, epochs=1), quiet)
    with pytest.raises(DataError, match="not the data"):
        export_checkpoint(ExportRequest(run, "x", tmp_path, data=str(image_folder)), quiet)
    result = export_checkpoint(ExportRequest(run, "x", tmp_path / "models"), quiet)
    assert result.metadata.accuracy is not None
    assert result.metadata.accuracy.split == "held out"
    # The other way round as well: these would be images that the run was trained on.
    source = str(image_folder / "train")
    with pytest.raises(DataError, match="not the data"):
        export_checkpoint(ExportRequest(trained_run, "x", tmp_path, data=source), quiet)


def test_a_nan_in_the_checkpoint_is_refused(trained_run, tmp_path):
    run = with_scales(trained_run, tmp_path / "run", [float("nan"), 1.0, 1.0])
    with pytest.raises(FoldError, match="stage1_block1 is nan"):
        export_checkpoint(ExportRequest(run, "nan", tmp_path / "models"), quiet)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b", "x" * 101])
def test_names_that_do_not_fit_a_url_are_refused_at_once(trained_run, tmp_path, name):
    with pytest.raises(PublishError, match="letters"):
        export_checkpoint(ExportRequest(trained_run, name, tmp_path), quiet)


def test_missing_or_broken_checkpoints_and_other_data(trained_run, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export_checkpoint(ExportRequest(tmp_path / "none", "x", tmp_path), quiet)
    (tmp_path / FILE_NAME).write_bytes(b"\x08\0\0\0\0\0\0\0{}      junk")
    with pytest.raises(CheckpointError, match="no checkpoint of this program"):
        export_checkpoint(ExportRequest(tmp_path, "x", tmp_path), quiet)
    with pytest.raises(DataError, match="--data"):
        export_checkpoint(ExportRequest(trained_run, "x", tmp_path, data="/nowhere"), quiet)


def test_the_graph_stands_on_its_own(exported):
    model = onnx.load(exported.result.path)
    onnx.checker.check_model(model, full_check=True)
    (image,) = model.graph.input
    assert image.name == "images"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    shape = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert shape == ["N", 16, 16, 3]
    assert [output.name for output in model.graph.output] == ["logits", "probabilities"]

from __future__ import annotations

import pytest
import torch

from tests.conftest import tiny_config
from training.data.dataset import Split
from training.loop import fit
from training.report.runs import open_run
from training.report.scales import read_scales, with_shares
from training.report.weights import WeightsRequest, report_weights, weights_text
from training.start import load_data_of


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def channel_run(image_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "channel"
    config = tiny_config(
        image_folder,
        out,
        granularity="channel",
        placement="both",
        scale_init="normal",
        scale_std=1.0,
        ema=0.5,
    )
    fit(config, quiet)
    return out


def test_a_run_s_course(trained_run):
    run = open_run(trained_run)
    found = read_scales(run)
    assert (found.network, found.data, found.epochs) == ("resnet8", "colors", 4)
    kinds = [(scale.block, scale.kind, scale.term, scale.channels) for scale in found.scales]
    assert kinds == [
        ("stage1_block1", "identity", "shortcut", 1),
        ("stage2_block1", "projection", "shortcut", 1),
        ("stage3_block1", "projection", "shortcut", 1),
    ]
    first = found.scales[0]
    assert first.epochs == [0, 1, 2, 3, 4]
    assert first.start.mean == 1.0
    recorded = run.state.history[-1].scales["stage1_block1.shortcut"]
    assert first.course[-1].mean == pytest.approx(recorded[0])
    assert first.end == first.course[-1]


def test_one_scale_a_channel(channel_run):
    run = open_run(channel_run)
    found = read_scales(run)
    shortcut, branch = found.scales[:2]
    assert (shortcut.term, branch.term) == ("shortcut", "branch")
    assert shortcut.channels == 16
    assert shortcut.end.low < shortcut.end.mean < shortcut.end.high
    values = run.state.history[-1].scales["stage1_block1.shortcut"]
    assert shortcut.end.mean == pytest.approx(sum(values) / 16)
    assert shortcut.negative == sum(value < 0 for value in values) > 0
    text = weights_text(found)
    assert "shortcut x 16" in text
    assert f"{shortcut.negative} -" in text
    assert "no skip shares" in text


def test_images_are_spread_over_the_split(trained_run):
    # Images lie by class: the first half of them would show some classes only.
    pixels = torch.zeros(50, 16, 16, 3, dtype=torch.uint8)
    pixels[25:] = 255
    split = Split(pixels, torch.zeros(50, dtype=torch.int64))
    run = open_run(trained_run)
    scales = read_scales(run)
    some, whole = with_shares(scales, run, split, 10), with_shares(scales, run, split, 99)
    assert (some.images, whole.images) == (10, 50)
    for a, b in zip(some.shares, whole.shares, strict=True):
        assert a.skip_share == pytest.approx(b.skip_share, rel=1e-5)


def test_rounds_on_one_data_set_read_it_once(trained_run, monkeypatch):
    asked = []

    def counted(state, source, say):
        asked.append(source)
        return load_data_of(state, source, say)

    monkeypatch.setattr("training.report.weights.load_data_of", counted)
    found = report_weights(WeightsRequest((trained_run, trained_run), table=True), quiet)
    assert len(asked) == 1
    assert [run.images for run in found.runs] == [48, 48]
    assert found.tables is not None


def test_without_data_the_rest_is_done(trained_run, channel_run, tmp_path):
    said: list[str] = []
    request = WeightsRequest((trained_run, channel_run), data=str(tmp_path / "gone"))
    found = report_weights(request, said.append)
    assert [run.images for run in found.runs] == [0, 0]
    assert all(run.scales for run in found.runs)
    assert sum("no skip shares for" in line and "--data" in line for line in said) == 2

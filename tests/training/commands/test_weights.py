from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from training.checkpoint import FILE_NAME
from training.commands.weights import weights


def run(capsys, *words: object) -> tuple[int, str, str]:
    status = weights([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def own_run(trained_run, tmp_path):
    """A copy of the trained run that a test may write beside."""
    return shutil.copytree(trained_run, tmp_path / "run")


def test_one_run(capsys, own_run):
    status, out, err = run(capsys, own_run)
    assert status == 0
    assert "resnet8 on colors, 4 epochs; skip shares on 48 held-out images" in out
    rows = [line.split() for line in out.splitlines()]
    blocks = [row for row in rows if row and row[0].startswith("stage")]
    assert [row[:4] for row in blocks] == [
        ["stage1_block1", "identity", "shortcut", "+1.0000"],
        ["stage2_block1", "projection", "shortcut", "+1.0000"],
        ["stage3_block1", "projection", "shortcut", "+1.0000"],
    ]
    sign, share, gauge_fixed = blocks[0][5:]
    assert sign in "+-"
    assert 0 < float(share) < 1
    assert gauge_fixed.startswith(sign)
    assert len(blocks[1]) == 7  # a projection has no gauge-fixed weight
    assert "rms(w S(x)) / (rms(w S(x)) + rms(v T(x)))" in out
    for name in ("weights.png", "skip_share.png"):
        assert f"wrote {own_run / name}" in err
        with Image.open(own_run / name) as image:
            image.load()
            assert min(image.size) > 400


def test_several_runs_as_json(capsys, own_run, tmp_path):
    out_folder = tmp_path / "pictures"
    words = (own_run, own_run / FILE_NAME, "--out", out_folder, "--json", "--table", "--images", 7)
    status, out, _ = run(capsys, *words)
    assert status == 0
    found = json.loads(out)
    assert [run["images"] for run in found["runs"]] == [7, 7]
    assert found["runs"][0]["scales"][0]["epochs"] == [0, 1, 2, 3, 4]
    assert found["runs"][0]["shares"] == found["runs"][1]["shares"]
    table = found["tables"]["tables"][0]
    assert table["data"] == "colors"
    assert [row[0] for row in table["weights"]] == [
        scale["end"]["mean"] for scale in found["runs"][0]["scales"]
    ]
    assert table["within"] == {"population": 0.0, "sample": 0.0}
    assert sorted(p.name for p in out_folder.iterdir()) == ["skip_share.png", "weights.png"]


def test_the_table_alone_reads_no_data(capsys, own_run, tmp_path):
    status, out, err = run(capsys, own_run, own_run, "--table", "--data", tmp_path / "gone")
    assert status == 0
    assert out.startswith("**Weights on colors** (resnet8)\n\n| Layer | Round 1 | Round 2 |")
    assert "| colors, over 2 rounds | 0.000000 | 0.000000 |" in out
    assert err == "nothing drawn: of several runs, --out says where to\n"


def test_without_data_the_rest_is_done(capsys, own_run, tmp_path):
    status, out, err = run(capsys, own_run, "--data", tmp_path / "gone")
    assert status == 0
    assert "no skip shares" in out
    assert "no skip shares for" in err
    assert (own_run / "weights.png").is_file()
    assert not (own_run / "skip_share.png").exists()


def test_errors_are_one_line(capsys, own_run, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / FILE_NAME).write_bytes(b"no tensors")
    for words, expected, status in (
        ([tmp_path / "gone"], "no checkpoint at", 1),
        ([own_run, tmp_path / "gone"], "no checkpoint at", 1),
        ([tmp_path], "is no checkpoint of this program", 1),
        ([own_run, "--out", tmp_path / "file" / "x"], "can't be written", 1),
        ([own_run, "--images", -1], "--images is -1", 2),
    ):
        found, out, err = run(capsys, *words)
        assert found == status, words
        assert out == ""
        assert err.startswith("adaresnet weights: ")
        assert expected in err
        assert len(err.splitlines()) == 1


def test_what_pytorch_throws_is_one_line(capsys, own_run, monkeypatch):
    def broken(*args: object) -> None:
        raise RuntimeError("out of luck\nand a stack")

    monkeypatch.setattr("training.report.weights.report_weights", broken)
    assert run(capsys, own_run) == (1, "", "adaresnet weights: PyTorch failed: out of luck\n")

"""The table of ``adaresnet networks --verify``."""

from __future__ import annotations

import json

import pytest
import torch

from service.cli import main
from training.export.folding_table import check_network


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(80, 3, 4, 4, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, 16).permute(0, 2, 3, 1).to(torch.uint8)


@pytest.mark.parametrize(
    ("name", "granularity", "operators"),
    [
        ("resnet8", "fixed", "equal"),
        ("resnet8", "channel", "Mul (channels of both signs)"),
        ("paper8", "block", ""),
        ("first-upload", "unified", ""),
        ("resnet110", "fixed", "Mul (product of scales beyond 2^16)"),
    ],
)
def test_a_row_holds_what_folding_left(name, granularity, operators):
    row = check_network(name, granularity, images())
    assert row.passed
    assert 0 < row.difference <= 1e-4
    assert row.same_first_class == row.images == 80
    assert row.classes >= 3
    assert operators in row.operators


def test_the_command_prints_the_table(image_folder, capsys):
    command = ["networks", "paper8", "--verify", "--data", str(image_folder), "--images", "40"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.count("40 of 40") == 6
    assert "6 of 6 passed" in shown
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["granularity"] for row in rows} >= {"fixed", "unified", "block", "channel"}
    assert all(row["passed"] for row in rows)


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--verify"], 2, "--data"),
        (["--verify", "--data", "/nowhere"], 1, "/nowhere"),
        (["resnet9", "--verify", "--data", "x"], 1, "resnet9"),
    ],
)
def test_wrong_usage(argv, status, said, capsys):
    assert main(["networks", *argv]) == status
    assert said in capsys.readouterr().err

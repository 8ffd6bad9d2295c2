from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Networks are drawn alike on every run."""
    torch.manual_seed(0)

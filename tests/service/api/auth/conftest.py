"""Time for an identity provider that shares a busy machine with the tests."""

from __future__ import annotations

import pytest

from service.api.auth import key_set


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "_WAIT_S", 60.0)

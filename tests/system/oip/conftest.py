"""One server of the shipped models for all tests that don't change it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import MODELS, Server, serving


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(MODELS, tmp_path_factory.mktemp("oip"), "--device", "cpu") as running:
        yield running


@pytest.fixture
def api(shipped: Server) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=shipped.url, timeout=60, headers={"Accept-Encoding": "identity"}
    ) as client:
        yield client

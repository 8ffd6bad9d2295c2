"""The same examples every time, and few; ``make fuzz`` draws others for as long as you like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.conftest import free_port
from tests.resilience.fuzz.__main__ import main, run
from tests.resilience.fuzz.properties import PROPERTIES, Property
from tests.resilience.service import Service, serving
from tests.resilience.traffic import MODEL
from tests.system.flood.pictures import write_model

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

_PROFILE = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("fuzz")
    write_model(folder / "models" / MODEL / "1" / "model.onnx", "1")
    with serving(folder / "models", folder, port=free_port()) as running:
        yield running


@pytest.mark.parametrize("one", PROPERTIES, ids=lambda one: one.name)
def test_whatever_is_drawn_is_answered_and_the_service_goes_on(one: Property, service: Service):
    run(one, service, _PROFILE)


def test_a_seed_can_be_run_once_more(capsys):
    assert main(["--seed", "5", "--only", "images"]) == 0
    assert "seed 5" in capsys.readouterr().out

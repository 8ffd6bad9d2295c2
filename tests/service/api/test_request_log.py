from __future__ import annotations

import asyncio
import io
import logging
from typing import Any

import pytest

from service.api.request_log import AccessLog


@pytest.fixture
def written():
    """What the access log writes, at level info."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("service.access")
    level, logger.level = logger.level, logging.INFO
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logger.level = level


def scope(path: str, number: int) -> dict[str, Any]:
    return {
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "state": {"request_id": f"id{number}", "trace_id": None},
    }


def test_lines_come_soon_together_and_in_order(written):
    async def scenario() -> None:
        log = AccessLog()
        for number in range(3):
            log.add(scope("/a%0ab", number), 200, 0.0015)
        log.add(scope("/healthz", 3), 200, 0.1)  # asked every few seconds
        assert written.getvalue() == ""
        await asyncio.sleep(0.2)
        log.add(scope("/last", 4), 404, 1)
        log.flush()

    asyncio.run(scenario())
    lines = [f"INFO service.access GET /a%0ab 200 1.5 ms id{number}" for number in range(3)]
    assert written.getvalue().splitlines() == [
        *lines,
        "INFO service.access GET /last 404 1000.0 ms id4",
    ]


def test_a_stream_that_fails_stops_nothing(written, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)

    async def scenario() -> None:
        log = AccessLog()
        written.close()
        log.add(scope("/", 0), 200, 0.1)
        log.flush()

    asyncio.run(scenario())

"""Everything at once: whatever is sent, every request gets its own answer, and nothing stays."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import Server, serving
from tests.system.flood.ledger import MODEL, Ledger
from tests.system.flood.pictures import file_of
from tests.system.flood.process import Held, held
from tests.system.flood.repository import Swapper
from tests.system.flood.traffic import Flood
from tests.system.prometheus import eventually, requests, scrape, total

FLOOD_S = 6.0
WARM_UP_S = 2.0
PATIENCE_S = 100.0
# What a flood may leave behind, for each worker. Threads: those that wait for the next long answer
# to write, which are let go by and by. Memory: what the C library keeps for later.
MORE_THREADS, MORE_FILES, MORE_RSS_MIB = 40, 8, 150
KINDS = {
    *("one image", "one bad image", "bad among many", "bad among many, skipped"),
    *("many as an array", "many as an array, chunked", "many as a form", "many as a form, chunked"),
    *("tiny deadline, one image", "tiny deadline, many", "burst of arrays"),
    *("hang-up in the head", "hang-up in the body", "hang-up while waiting", "hang-up by a reset"),
    *(f"version {version} by name" for version in (1, 2, 3, 4)),
}
OUTCOMES = {
    *("right", "hung up", "503 queue_full", "504 deadline_exceeded", "404 version_not_found"),
    *("503 model_not_ready", "422 image_undecodable", "422 invalid_images"),
}

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


async def flood(port: int, swapper: Swapper, seconds: float, rounds: int) -> None:
    """Send everything for so long, and on until all has occurred that can; but not for ever."""
    everything = Flood(port, swapper.ledger, asyncio.Event())
    async with asyncio.TaskGroup() as group:
        group.create_task(everything.run())
        began, rounds = time.monotonic(), rounds + swapper.rounds
        try:
            while (took_s := time.monotonic() - began) < seconds or swapper.rounds < rounds:
                await swapper.swap()
            while rounds > 1 and not has_all(swapper.ledger) and took_s < PATIENCE_S:
                await swapper.swap()
                took_s = time.monotonic() - began
        finally:
            everything.stopped.set()


def has_all(ledger: Ledger) -> bool:
    return set(ledger.begun) >= KINDS and set(ledger.outcomes()) >= OUTCOMES


def settled(server: Server, before: Held | None, workers: int) -> Held:
    """What is held once connections that were hung up are gone; at the latest after a while."""
    most = before.files + MORE_FILES * workers if before else 0
    until = time.monotonic() + (20 if before else 2)
    while (now := held(server.process.pid)).files > most and time.monotonic() < until:
        time.sleep(0.1)
    return now


def is_ready(server: Server) -> bool:
    return httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200


def is_empty(server: Server) -> bool:
    return total(scrape(server.url), "adaresnet_images_in_work") == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_every_request_of_a_flood_gets_its_own_answer_or_a_right_refusal(tmp_path, workers):
    ledger, models = Ledger(), tmp_path / "models"
    swapper = Swapper(models, ledger)
    swapper.begin()
    flags = ("--max-queue-size", "1500", "--request-timeout-s", "300", "--workers", str(workers))
    with serving(models, tmp_path, *flags, "--repository-poll-s", "0.1") as server:
        port = int(server.url.rpartition(":")[2])
        # Each worker says for itself that it is ready; a new connection may lead to either.
        eventually(lambda: all(is_ready(server) for _ in range(6 * workers)), timeout_s=60)
        asyncio.run(flood(port, swapper, WARM_UP_S, rounds=1))
        before = settled(server, None, workers)
        asyncio.run(flood(port, swapper, FLOOD_S, rounds=2))
        eventually(lambda: is_empty(server), timeout_s=30)
        check_that_it_still_answers(server)
        after = settled(server, before, workers)
        print(f"\n{ledger.table()}\n{before}\n{after}\nswaps: {swapper.rounds}, {ledger.tags}")
        check_accounts(ledger)
        check_counts(server, ledger)
        assert after.files <= before.files + MORE_FILES * workers
        assert after.threads <= before.threads + MORE_THREADS * workers
        assert after.rss_mib <= before.rss_mib + MORE_RSS_MIB * workers
    log = server.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
    errors = [line for line in log.splitlines() if " ERROR " in line]
    # Version 3, which is broken, and what was removed in the moment in which it was being loaded.
    assert all(" is not served: " in line for line in errors), errors


def check_accounts(ledger: Ledger) -> None:
    """None lost, none wrong, and everything has occurred."""
    assert not ledger.failures, "\n".join(ledger.failures[:10])
    assert {kind: sum(counts.values()) for kind, counts in ledger.ended.items()} == ledger.begun
    assert set(ledger.begun) == KINDS
    assert set(ledger.outcomes()) == OUTCOMES


def check_counts(server: Server, ledger: Ledger) -> None:
    """The service counted what its clients did; it may have answered some that had hung up."""
    outcomes, series = ledger.outcomes(), scrape(server.url)
    for status, ours in (
        ("200", outcomes["right"] + 1),  # the one behind the flood
        ("404", outcomes["404 version_not_found"]),
        ("422", outcomes["422 image_undecodable"] + outcomes["422 invalid_images"]),
        ("503", outcomes["503 queue_full"] + outcomes["503 model_not_ready"]),
        ("504", outcomes["504 deadline_exceeded"]),
    ):
        theirs = requests(series, status=status)
        assert ours <= theirs <= ours + outcomes["hung up"], (status, ours, theirs)
    assert requests(series, status="500") == 0


def check_that_it_still_answers(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=10) as client:
        identity = int(np.random.default_rng().integers(256))
        answer = client.post(f"/v1/classify?model={MODEL}", content=file_of(identity, "PNG"))
        assert answer.status_code == 200
        label = answer.json()["results"][0]["predictions"][0]["label"]
        assert label.partition(":")[2] == str(identity)

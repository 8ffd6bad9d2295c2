"""Statistics: case C33 of the conformance checklist, with one process and with several."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import MODELS, serving
from tests.system.oip.wire import INFER, binary, pictures, post, tensor
from tests.system.prometheus import eventually

PARTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output",
         "cache_hit", "cache_miss")  # fmt: skip
Row = dict[str, Any]


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two workers"])
def url(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("statistics")
    flags = ("--device", "cpu", "--workers", request.param)
    with serving(MODELS, folder, *flags) as running:
        eventually(lambda: all(is_ready(running.url) for _ in range(12)), 60)
        yield running.url


def is_ready(url: str) -> bool:
    return httpx.get(f"{url}/v2/health/ready").status_code == 200


def row(url: str, model: str = "cifar10") -> Row:
    (found,) = httpx.get(f"{url}/v2/models/{model}/stats").json()["model_stats"]
    row: Row = found
    return row


def gained(before: Row, after: Row, part: str) -> tuple[int, int]:
    old, new = before["inference_stats"][part], after["inference_stats"][part]
    return new["count"] - old["count"], new["ns"] - old["ns"]


def test_a_version_that_was_never_used_has_zeros(url):
    unused = row(url, "mnist")
    zero = {"count": 0, "ns": 0}
    assert unused == {
        "name": "mnist",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": dict.fromkeys(PARTS, zero),
        "batch_stats": [],
    }
    rows = httpx.get(f"{url}/v2/models/stats").json()["model_stats"]
    assert [one["name"] for one in rows] == ["cifar10", "mnist"]
    assert httpx.get(f"{url}/v2/models/mnist/versions/1/stats").json() == {"model_stats": [unused]}


def test_c33_three_requests_of_four_images_are_twelve(url):
    before, began_ms = row(url), time.time() * 1e3

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            assert post(client, {"inputs": [tensor(pictures(4))]}).status_code == 200

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(ask, range(3)))
    after = settled(url, lambda now: gained(before, now, "success")[0] == 3)
    assert after["inference_count"] - before["inference_count"] == 12
    assert began_ms - 1 <= after["last_inference"] <= time.time() * 1e3 + 1
    runs = after["execution_count"] - before["execution_count"]
    assert 1 <= runs <= 12
    for part in ("queue", "compute_infer"):
        assert gained(before, after, part)[0] == runs
    for part in ("compute_input", "compute_output"):
        assert gained(before, after, part)[0] == 3
    for part in ("success", "compute_infer", "compute_output"):
        assert gained(before, after, part)[1] > 0
    assert gained(before, after, "fail") == (0, 0)
    assert gained(before, after, "success")[1] > gained(before, after, "compute_output")[1]
    by_size = {one["batch_size"]: one for one in after["batch_stats"]}
    old = {one["batch_size"]: one["compute_infer"]["count"] for one in before["batch_stats"]}
    counts = {size: one["compute_infer"]["count"] for size, one in by_size.items()}
    assert sum(counts.values()) - sum(old.values()) == runs
    assert sum(size * (count - old.get(size, 0)) for size, count in counts.items()) == 12
    for one in by_size.values():
        assert set(one) == {"batch_size", "compute_input", "compute_infer", "compute_output"}


def test_failures_are_counted_apart_and_classifications_too(url):
    before = row(url)
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(2):
            assert post(client, {"inputs": []}).status_code == 400
        content, headers = binary(pictures(3))
        assert client.post(INFER, content=content, headers=headers).status_code == 200
        ppm = b"P6 1 1 255 abc"
        path = "/v1/classify?model=cifar10"
        assert client.post(path, content=ppm).status_code == 200
    after = settled(
        url,
        lambda now: gained(before, now, "success")[0] == 2 and gained(before, now, "fail")[0] == 2,
    )
    assert after["inference_count"] - before["inference_count"] == 4


def settled(url: str, is_there: Callable[[Row], bool]) -> Row:
    """The statistics once a request is counted, which is when its answer is on its way."""
    eventually(lambda: is_there(row(url)))
    return row(url)

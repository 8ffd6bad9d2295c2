"""Read ``/metrics`` of a server as Prometheus does."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import httpx

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def scrape(url: str) -> Series:
    """Every series over a new connection, which may lead to any of the workers."""
    answer = httpx.get(f"{url}/metrics", timeout=30, verify=False)
    assert answer.status_code == 200
    series: Series = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            head, _, value = line.rpartition(" ")
            key = head.partition("{")[0], frozenset(_LABEL.findall(head))
            assert key not in series, f"twice: {line}"
            series[key] = float(value)
    return series


def total(series: Series, name: str, **labels: str) -> float:
    """Sum of a metric over all series with these labels."""
    wanted = frozenset(labels.items())
    return sum(value for (one, has), value in series.items() if one == name and wanted <= has)


def images(series: Series, outcome: str, **labels: str) -> float:
    return total(series, "adaresnet_images_total", outcome=outcome, **labels)


def requests(series: Series, **labels: str) -> float:
    """Classifications, by status."""
    name = "adaresnet_request_duration_seconds_count"
    return total(series, name, route="/v1/classify", **labels)


def eventually(check: Callable[[], bool], timeout_s: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "it never comes about"
        time.sleep(0.05)

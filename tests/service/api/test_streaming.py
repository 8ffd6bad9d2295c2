"""Who gets an answer of lines."""

from __future__ import annotations

import pytest

from service.api.streaming import wants_lines


@pytest.mark.parametrize(
    "accept",
    [
        "application/x-ndjson",
        "Application/X-NDJSON",
        "application/jsonl",
        "application/json;q=0.5, application/x-ndjson",
        "application/x-ndjson;q=0.001",
        "application/json, application/x-ndjson",
    ],
)
def test_who_names_lines_gets_them(accept):
    assert wants_lines(accept.encode())


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/json",
        "application/json, application/x-ndjson;q=0.5",
        "application/*",
        "application/x-ndjson;q=0",
        "application/x-ndjson ; Q=0.000",
        "x-ndjson",
        "text/html,\xff",
    ],
)
def test_nobody_else_does(accept):
    assert not wants_lines(accept.encode("latin-1"))

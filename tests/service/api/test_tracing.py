"""Spans as they are made, without a server around them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.api.tracing import RequestTrace, Tracing
from service.engine.spans import Run

RUN = Run("colors", "1", 2, 0.1, 0.2, 0.3, None)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    running = Tracing(exporter)
    yield running
    running.close()


def begin(tracing: Tracing, *headers: tuple[bytes, bytes]) -> RequestTrace:
    scope: dict[str, Any] = {"method": "POST", "path": "/", "scheme": "http", "http_version": "1.1"}
    return tracing.begin(scope | {"headers": headers}, "id", 0.0)


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def test_a_batch_is_the_first_request_s_that_has_room_for_its_span(tracing, exporter):
    large, small = begin(tracing), begin(tracing)
    for _ in range(64):
        large.decoded(0.0, 0.1, 1)
    batch = large.batch(RUN, [large, small])
    large.ran(RUN, 0.0, batch)
    small.ran(RUN, 0.0, batch)
    for trace in (large, small):
        trace.end("/", 200, ("", ""), None)
    tracing.close()
    (span,) = named(exporter, "batch")
    assert span.parent == small.context
    assert [link.context for link in span.links] == [large.context, small.context]
    (run,) = named(exporter, "run")
    assert [link.context for link in run.links] == [span.context]
    left_out = [dict(span.attributes or {}) for span in named(exporter, "POST /")]
    assert [found.get("adaresnet.spans_left_out") for found in left_out] == [2, None]


def test_a_batch_of_one_large_request_is_left_out_with_the_rest(tracing, exporter):
    large = begin(tracing)
    for _ in range(30):
        run = dataclasses.replace(RUN, error="out_of_memory")
        large.ran(run, 0.0, large.batch(run, [large]))
    large.end("/", 200, ("", ""), None)
    tracing.close()
    (request,) = named(exporter, "POST /")
    assert len(exporter.get_finished_spans()) == 1 + 64
    assert dict(request.attributes or {})["adaresnet.spans_left_out"] == 90 - 64


def test_several_tracestate_headers_are_one_list(tracing):
    headers = (
        (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        (b"tracestate", b"one=1,two=2"),
        (b"tracestate", b"three=3"),
    )
    state = begin(tracing, *headers).context.trace_state
    assert dict(state) == {"one": "1", "two": "2", "three": "3"}


@pytest.mark.parametrize(
    ("status", "problem", "failed"),
    [
        (200, None, False),
        (200, "deadline_exceeded", True),  # lines, the last of which is an error
        (422, "image_undecodable", False),
        (504, "deadline_exceeded", True),
    ],
)
def test_what_failed_says_so(tracing, exporter, status, problem, failed):
    begin(tracing).end("/", status, ("", ""), problem)
    tracing.close()
    (span,) = exporter.get_finished_spans()
    assert dict(span.attributes or {}).get("error.type") == problem
    assert (span.status.status_code.name == "ERROR") is failed

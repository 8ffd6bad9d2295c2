"""Traces of a real process, as a collector gets them."""

from __future__ import annotations

import concurrent.futures
import functools
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.conftest import ADARESNET, Exported, Server, draw, free_port, serving
from tests.system.otlp import Collector, Span, collecting
from tests.system.test_lines import chunk, connected, response_of
from tests.system.test_workers import two_workers

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER_KIND = 2
ERROR = 2
REQUEST = "POST /v1/classify"
post = functools.partial(httpx.post, timeout=60, verify=False)
# So that spans come soon; else they are sent every five seconds.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


def traceparent(*, sampled: bool = True, trace: str = TRACE) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{PARENT}-{'01' if sampled else '00'}"}


def inside(inner: Span, outer: Span, slack_ns: float = 0) -> bool:
    """Whether one span lasts no longer than another, but for how exactly two clocks agree."""
    begins = outer.start_ns - slack_ns <= inner.start_ns <= inner.end_ns
    return begins and inner.end_ns <= outer.end_ns + slack_ns


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def traced(exported: Exported, tmp_path, collector, monkeypatch) -> Iterator[Server]:
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)
    flags = (
        "--otlp-endpoint",
        collector.url,
        "--max-queue-delay-ms",
        "300",
        "--max-batch-size",
        "8",
    )
    with serving(exported.repository, tmp_path, *flags) as server:
        yield server


@pytest.fixture
def png(rng) -> bytes:
    buffer = io.BytesIO()
    draw("red", rng, (64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_request_is_in_the_trace_of_its_caller(traced, collector, png):
    before_ns = time.time_ns()
    headers = traceparent() | {"X-Request-ID": "mine-1"}
    answer = post(f"{traced.url}/v1/classify", content=png, headers=headers)
    assert answer.status_code == 200
    (request,) = collector.wait_for(REQUEST)
    after_ns = time.time_ns()
    assert (request.trace, request.parent, request.kind) == (TRACE, PARENT, SERVER_KIND)
    assert request.status != ERROR
    assert request.attributes["http.request.method"] == "POST"
    assert request.attributes["http.route"] == request.attributes["url.path"] == "/v1/classify"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["adaresnet.request_id"] == "mine-1"
    assert request.attributes["adaresnet.model.name"] == "colors"
    assert request.attributes["adaresnet.model.version"] == "1"
    assert request.resource["service.name"] == "adaresnet"
    assert before_ns <= request.start_ns <= request.end_ns <= after_ns

    below = collector.below(request)
    assert {name: len(found) for name, found in below.items()} == {
        "decode": 1,
        "queue": 1,
        "run": 1,
        "batch": 1,
    }
    decode, queue, run = (below[name][0] for name in ("decode", "queue", "run"))
    assert decode.attributes == {"adaresnet.images": 1}
    assert run.attributes["adaresnet.batch.size"] == 1
    assert all(inside(span, request) for span in (decode, queue, run))
    assert decode.end_ns <= queue.start_ns <= queue.end_ns <= run.start_ns
    assert queue.end_ns - queue.start_ns > 200e6  # it waited for its batch to fill
    stated = {
        name: float(value.removeprefix("dur="))
        for name, value in (
            part.strip().split(";") for part in answer.headers["server-timing"].split(",")
        )
    }
    for name, span in (("queue", queue), ("run", run)):
        assert (span.end_ns - span.start_ns) / 1e6 == pytest.approx(stated[name], abs=0.2)


def test_a_batch_is_linked_to_the_requests_in_it(exported, tmp_path, collector, png, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    traces = [f"{number:032x}" for number in range(1, 5)]
    everybody = [traceparent(trace=trace) for trace in traces]
    everybody.append(traceparent(sampled=False, trace="f" * 32))
    # A batch begins when all five are there.
    flags = ("--max-batch-size", "5", "--max-queue-delay-ms", "10000", "--instances", "1")
    with (
        serving(exported.repository, tmp_path, "--otlp-endpoint", collector.url, *flags) as server,
        server.client() as client,
        concurrent.futures.ThreadPoolExecutor(5) as pool,
    ):

        def ask(headers: dict[str, str]) -> str:
            answer = client.post("/v1/classify", content=png, headers=headers)
            return answer.headers["x-batch-size"]

        assert list(pool.map(ask, everybody)) == ["5"] * 5
    requests = {span.trace: span for span in collector.wait_for(REQUEST, 4)}
    assert set(requests) == set(traces)  # and not the one that its caller left out
    (batch,) = collector.wait_for("batch")
    assert batch.links == {(span.trace, span.id) for span in requests.values()}
    assert (batch.trace, batch.parent) in batch.links
    assert batch.attributes == {
        "adaresnet.batch.size": 5,
        "adaresnet.model.name": "colors",
        "adaresnet.model.version": "1",
    }
    runs = collector.wait_for("run", 4)
    assert {run.trace for run in runs} == set(traces)
    for run in runs:
        assert run.parent == requests[run.trace].id
        assert run.links == {(batch.trace, batch.id)}
        assert inside(run, batch, slack_ns=1e6)


def test_errors_are_named_and_probes_left_out(traced, collector, png):
    with traced.client() as client:
        assert client.post("/v1/classify", content=b"junk").status_code == 422
        late = client.post("/v1/classify", content=png, headers={"X-Request-Timeout": "1ms"})
        assert late.status_code == 504
        for path in ("/healthz", "/readyz", "/startupz", "/metrics"):
            client.get(path)
        hostile = {"traceparent": f"00-{'0' * 32}-{PARENT}-01"}
        assert client.get("/v1/models/none", headers=hostile).status_code == 404
    bad, late_one = sorted(collector.wait_for(REQUEST, 2), key=lambda span: span.start_ns)
    assert bad.attributes["error.type"] == "image_undecodable"
    assert (bad.status, bad.parent) == (0, "")
    assert late_one.attributes["error.type"] == "deadline_exceeded"
    assert late_one.status == ERROR
    (missing,) = collector.wait_for("GET /v1/models/{name}")
    assert missing.attributes["http.response.status_code"] == 404
    assert (missing.parent, missing.trace != "0" * 32) == ("", True)
    broken_off(traced, png)
    *_, broken = sorted(collector.wait_for(REQUEST, 3), key=lambda span: span.start_ns)
    assert broken.attributes["http.response.status_code"] == 200
    assert broken.attributes["error.type"] == "malformed_request"
    assert broken.status == ERROR
    names = {"decode", "queue", "run", "batch", REQUEST, "GET /v1/models/{name}"}
    assert {span.name for span in collector.spans} <= names


def broken_off(server: Server, png: bytes) -> None:
    """An answer of lines that begins well and ends with an error."""
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + png
    with connected(server) as connection:
        connection.sendall(head.encode() + chunk(part + b"\r\n--b\r\nnonsense"))
        response = response_of(connection)
        assert b"error" not in response.readline()
        connection.sendall(chunk(b""))
        assert b'"error":{"code":"malformed_request"' in response.read()


def test_a_large_request_has_a_bounded_number_of_spans(traced, collector):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((20_000, 24, 24, 3), np.uint8))
    answer = post(f"{traced.url}/v1/classify", content=buffer.getvalue())
    assert answer.status_code == 200
    (request,) = collector.wait_for(REQUEST)
    assert sum(map(len, collector.below(request).values())) == 64
    assert request.attributes["adaresnet.spans_left_out"] > 64


def test_variables_of_opentelemetry_hold(exported, tmp_path, collector, png, monkeypatch):
    for name, value in {
        **SOON,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret",
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with (
        two_workers(exported.repository, tmp_path) as server,
        server.client() as client,
    ):
        for headers in ({}, {}, traceparent(), {}):
            assert client.post("/v1/classify", content=png, headers=headers).status_code == 200
        (request,) = collector.wait_for(REQUEST)
    assert request.trace == TRACE  # the ratio is for those that begin here
    assert request.resource["service.name"] == "mine"
    assert request.resource["deployment.environment"] == "test"
    assert {headers["x-key"] for headers in collector.headers} == {"secret"}


def test_what_is_not_sent_yet_is_sent_at_the_end(exported, tmp_path, collector, png, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    with serving(exported.repository, tmp_path, "--otlp-endpoint", collector.url) as server:
        assert post(f"{server.url}/v1/classify", content=png).status_code == 200
        assert not collector.spans
    assert collector.named(REQUEST)


def test_a_collector_that_is_not_there_harms_nobody(exported, tmp_path, png):
    nowhere = f"http://127.0.0.1:{free_port()}"
    with serving(exported.repository, tmp_path, "--otlp-endpoint", nowhere) as server:
        for _ in range(20):
            assert post(f"{server.url}/v1/classify", content=png).status_code == 200
        server.process.terminate()
        assert server.process.wait(25) == 0


@pytest.mark.parametrize(
    ("flags", "variables", "word"),
    [
        (("--otlp-endpoint", "localhost:4318"), {}, "'localhost:4318'"),
        ((), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://"}, "'http://'"),
        (
            ("--otlp-endpoint", "http://localhost:4317"),
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "http/protobuf",
        ),
    ],
)
def test_what_can_not_be_sent_to_is_refused(exported, flags, variables, word):
    command = [str(ADARESNET), "serve", "--models", str(exported.repository), "--port", "0", *flags]
    environment = {**os.environ, **variables}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert word in result.stderr
    assert len(result.stderr.splitlines()) == 1


def without_opentelemetry(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where the extra is missing; of the API alone, other packages have use."""
    names = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto")
    hidden = f"import sys\nsys.modules.update(dict.fromkeys({names}))\n"
    command = [sys.executable, "-c", hidden + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_without_the_extra_who_asks_for_traces_is_told_what_to_install(exported):
    flags = ["--models", str(exported.repository), "--port", "0"]
    asking = [*flags, "--otlp-endpoint", "http://localhost:4318"]
    script = "from service.commands.serve import serve; sys.exit(serve({}))"
    told = without_opentelemetry(script.format(asking))
    assert told.returncode == 2
    assert told.stderr.splitlines() == [
        "adaresnet serve: traces are asked for, and need more packages: install adaresnet[tracing]"
    ]


def test_who_does_not_ask_for_traces_imports_nothing_of_it(exported):
    script = f"""
from pathlib import Path
from service.api.app import create_app
from service.settings import Settings
create_app(Settings(models=Path({str(exported.repository)!r})), print)
"""
    assert without_opentelemetry(script).returncode == 0

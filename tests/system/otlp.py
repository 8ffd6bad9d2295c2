"""A small OpenTelemetry collector: takes spans by OTLP over HTTP, and keeps them."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from tests.system.prometheus import eventually


@dataclass(frozen=True)
class Span:
    """A span as it was sent; ids are hex, times nanoseconds since 1970."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: frozenset[tuple[str, str]]
    status: int
    resource: dict[str, Any]


@dataclass
class Collector:
    """What has arrived."""

    url: str
    spans: list[Span] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]

    def below(self, parent: Span) -> dict[str, list[Span]]:
        """Spans with this parent, by name."""
        found: dict[str, list[Span]] = {}
        for span in list(self.spans):
            if (span.trace, span.parent) == (parent.trace, parent.id):
                found.setdefault(span.name, []).append(span)
        return found

    def wait_for(self, name: str, count: int = 1) -> list[Span]:
        eventually(lambda: len(self.named(name)) >= count, 30)
        found = self.named(name)
        assert len(found) == count
        return found


def _values(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        kind = pair.value.WhichOneof("value")
        return getattr(pair.value, kind) if kind else None

    return {pair.key: value(pair) for pair in pairs}


def _span(message: Message, resource: dict[str, Any]) -> Span:
    return Span(
        message.name,
        message.kind,
        message.trace_id.hex(),
        message.span_id.hex(),
        message.parent_span_id.hex(),
        message.start_time_unix_nano,
        message.end_time_unix_nano,
        _values(message.attributes),
        frozenset((link.trace_id.hex(), link.span_id.hex()) for link in message.links),
        message.status.code,
        resource,
    )


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            right = self.path == "/v1/traces"
            right = right and self.headers["Content-Type"] == "application/x-protobuf"
            if right:
                collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                request = ExportTraceServiceRequest.FromString(body)
                for batch in request.resource_spans:
                    resource = _values(batch.resource.attributes)
                    for scope in batch.scope_spans:
                        collector.spans += [_span(one, resource) for one in scope.spans]
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if right else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()

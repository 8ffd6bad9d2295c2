"""OpenTelemetry traces: a span a request, with what became of it, sent by OTLP over HTTP.

Only who asks for traces needs the extra ``tracing``, and nothing is done for requests otherwise.
Spans are made when what they are about is over, from times that the engine has taken anyway.

A batch is shared by requests of several traces. Its span belongs to the first of them that has room
for it, with links to all, and the ``run`` span of each has a link to it.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from service.engine.spans import SPANS, Run, Spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanContext, Tracer
    from starlette.types import Scope

_NAMESPACE = "OTEL_EXPORTER_OTLP_"
_PROTOCOL = "http/protobuf"
_PATH = "/v1/traces"
_SERVICE = "adaresnet"
# A request of 100,000 images has thousands of batches; nobody reads so many.
_MAX_SPANS = 64
# At the end, spans that are not sent yet get so long.
_FLUSH_S = 5.0
_CLIENT_ERROR, _INTERNAL_ERROR = 400, 500


def tracing_asked_for(endpoint: str | None) -> bool:
    """Whether traces are to be sent: by the setting, or by OpenTelemetry's own variables."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    return bool(endpoint or _variable("ENDPOINT")[1])


def tracing_obstacle(endpoint: str | None) -> str | None:
    """Why traces can't be sent although they are asked for; None: they can, or are not."""
    if not tracing_asked_for(endpoint):
        return None
    if not _installed():
        return "traces are asked for, and need more packages: install adaresnet[tracing]"
    variable, protocol = _variable("PROTOCOL")
    if protocol not in ("", _PROTOCOL):
        return f"{variable} is {protocol!r}; traces are sent by {_PROTOCOL}"
    name, url = ("otlp_endpoint", endpoint) if endpoint else _variable("ENDPOINT")
    if not _is_http(url):
        return f"{name} is {url!r}, which is no URL such as http://localhost:4318"
    return None


def start_tracing(endpoint: str | None) -> Tracing | None:
    """Begin to send traces; None where nobody asks for them.

    Args:
        endpoint: URL of a collector, to which ``/v1/traces`` is added; None: as OpenTelemetry's
            variables say.
    """
    if not tracing_asked_for(endpoint):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # Else the exporter reads the variables itself, as their specification says.
    return Tracing(OTLPSpanExporter(endpoint.rstrip("/") + _PATH if endpoint else None))


class Tracing:
    """Makes the spans of requests and sends them, some at a time."""

    def __init__(self, exporter: SpanExporter) -> None:
        """Send to an exporter; the sampler is as ``OTEL_TRACES_SAMPLER`` says."""
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider: TracerProvider = TracerProvider(resource=_resource())
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(_SERVICE, metadata.version("adaresnet"))

    def begin(self, scope: Scope, request_id: str, began_s: float) -> RequestTrace:
        """Begin the span of a request, in the trace that its caller names, if it does.

        Args:
            scope: The request.
            request_id: Its id.
            began_s: By ``time.perf_counter``.
        """
        from opentelemetry.propagate import get_global_textmap
        from opentelemetry.trace import SpanKind

        propagator = get_global_textmap()
        headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            if (name := key.decode("latin-1")) in propagator.fields:
                said = value.decode("latin-1")
                # Of several with one name, all are one list (RFC 9110, 5.3), as of tracestate.
                headers[name] = f"{headers[name]},{said}" if name in headers else said
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            scope["method"],
            propagator.extract(headers),
            SpanKind.SERVER,
            {
                "http.request.method": scope["method"],
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
                "adaresnet.request_id": request_id,
            },
            start_time=epoch_ns + int(began_s * 1e9),
        )
        trace = RequestTrace(self._tracer, span, epoch_ns, scope["method"])
        if span.is_recording():
            SPANS.set(trace)
        return trace

    def close(self) -> None:
        """Send what is left; a collector that doesn't answer is not waited for long."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_S)


class RequestTrace:
    """The spans of one request."""

    def __init__(self, tracer: Tracer, span: Span, epoch_ns: int, method: str) -> None:
        """Go on from its own span; ``epoch_ns`` is when ``time.perf_counter`` was 0."""
        self._method = method
        self._tracer = tracer
        self._span = span
        self._epoch_ns = epoch_ns
        self._count = 0

    @property
    def trace_id(self) -> str:
        """Of all its spans, 32 hex digits."""
        return f"{self.context.trace_id:032x}"

    @property
    def context(self) -> SpanContext:
        """Of its own span, for links to it."""
        return self._span.get_span_context()

    def decoded(self, began_s: float, ended_s: float, images: int) -> None:
        """See ``Spans``."""
        self._add("decode", began_s, ended_s, {"adaresnet.images": images})

    def batch(self, run: Run, together: Sequence[Spans]) -> object:
        """See ``Spans``."""
        from opentelemetry.trace import Link

        traces = [one for one in together if isinstance(one, RequestTrace)]
        links = [Link(one.context) for one in traces]
        # The runs of all are linked to it, so it is no loss of this request alone.
        owner = next((one for one in traces if one._count < _MAX_SPANS), self)
        attributes = {
            "adaresnet.model.name": run.model,
            "adaresnet.model.version": run.version,
            "adaresnet.batch.size": run.size,
        }
        return owner._add("batch", run.taken_s, run.ended_s, attributes, links, run.error)

    def ran(self, run: Run, queued_s: float, batch: object) -> None:
        """See ``Spans``."""
        from opentelemetry.trace import Link, SpanContext

        links = [Link(batch)] if isinstance(batch, SpanContext) else []
        attributes = {"adaresnet.batch.size": run.size}
        self._add("queue", queued_s, run.taken_s, {})
        self._add("run", run.began_s, run.ended_s, attributes, links, run.error)

    def end(self, route: str, status: int, of: tuple[str, str], problem: str | None) -> None:
        """The request is over.

        Args:
            route: It took.
            status: It was answered with.
            of: Model and version; empty where there is none.
            problem: Code of the error that it was answered with.
        """
        from opentelemetry.trace import StatusCode

        span = self._span
        if span.is_recording():
            span.update_name(f"{self._method} {route}")
            span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            for name, value in zip(("name", "version"), of, strict=True):
                if value:
                    span.set_attribute(f"adaresnet.model.{name}", value)
            if problem is not None:
                span.set_attribute("error.type", problem)
            # One that was answered well at first, by lines, and then broke off has its error alone.
            if status >= _INTERNAL_ERROR or (problem is not None and status < _CLIENT_ERROR):
                span.set_status(StatusCode.ERROR)
            if self._count > _MAX_SPANS:
                span.set_attribute("adaresnet.spans_left_out", self._count - _MAX_SPANS)
        span.end()

    def _add(
        self,
        name: str,
        began_s: float,
        ended_s: float,
        attributes: Mapping[str, Any],
        links: Sequence[Any] = (),
        error: str | None = None,
    ) -> SpanContext | None:
        """Make a span below the request's own; None where there are too many already."""
        from opentelemetry.trace import StatusCode, set_span_in_context

        self._count += 1
        if self._count > _MAX_SPANS:
            return None
        span = self._tracer.start_span(
            name,
            set_span_in_context(self._span),
            attributes=dict(attributes),
            links=links,
            start_time=self._epoch_ns + int(began_s * 1e9),
        )
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end(self._epoch_ns + int(ended_s * 1e9))
        return span.get_span_context()


def _installed() -> bool:
    names = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
    try:
        return all(importlib.util.find_spec(name) for name in names)
    except ModuleNotFoundError:  # of what is above a name
        return False


def _variable(name: str) -> tuple[str, str]:
    """A variable of the exporter and its value, the one for traces before that for everything."""
    for variable in (f"{_NAMESPACE}TRACES_{name}", f"{_NAMESPACE}{name}"):
        if value := os.environ.get(variable):
            return variable, value
    return "", ""


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets around what is no address of IPv6
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _resource() -> Any:
    """What the spans are of; OpenTelemetry's variables win."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    ours = Resource({SERVICE_NAME: _SERVICE, "service.version": metadata.version("adaresnet")})
    given = Resource.create()
    if str(given.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return given.merge(ours)
    return ours.merge(given)

"""What ends a start although each setting for itself is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from service.api.auth.build import build_gate
from service.api.browser import parse_origins
from service.api.tls import certificate_of
from service.api.tracing import tracing_obstacle
from service.settings import Settings
from service.workers import workers_obstacle


def find_obstacles(settings: Settings) -> Iterator[str]:
    """Why the service can't start, a line each; nothing is begun for it."""
    if settings.workers > 1 and (obstacle := workers_obstacle()):
        yield f"workers: {obstacle}"
    if obstacle := tracing_obstacle(settings.otlp_endpoint):
        yield obstacle
    checks: tuple[Callable[[], object], ...] = (
        lambda: build_gate(settings, None),
        lambda: parse_origins(settings.cors_origins),
        lambda: certificate_of(settings.tls_certificate, settings.tls_key),
    )
    for check in checks:
        try:
            check()
        except ValueError as error:
            yield str(error)

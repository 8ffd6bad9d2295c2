"""Settings for who watches over the service: when it is ready, when it hangs, what it tells."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

_SHORTEST_WORKER_TIMEOUT_S = 2.0  # workers give two signs of life a second


class OperationSettings(BaseSettings):
    """Readiness, hanging runs, the end, logs, traces and metrics."""

    strict_readiness: bool = Field(
        default=False,
        description="ready only if every model that was there at the start can answer; else, if"
        " the default and any other can",
    )
    run_timeout_s: float = Field(
        default=30.0,
        ge=0,
        description="seconds until a run of a network is ended or given up; 0: never",
    )
    worker_timeout_s: float = Field(
        default=30.0,
        ge=0,
        description="of several workers, one whose event loop shows no life for so many seconds is"
        " killed and replaced; 0: never",
    )
    drain_delay_s: float = Field(
        default=1.0,
        ge=0,
        le=600,
        description="seconds from SIGTERM on in which everything is still answered, so that load"
        " balancers see /readyz say 503",
    )
    drain_timeout_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="seconds that requests under way get to finish when the service stops, behind"
        " drain_delay_s; then they are refused",
    )
    metrics_classes: int = Field(
        default=100,
        ge=0,
        le=100_000,
        description="classes of a model that /metrics counts by name; later ones are '(other)'",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector that traces are sent to, by OTLP over HTTP;"
        " default: OTEL_EXPORTER_OTLP_ENDPOINT, else no traces",
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="auto: text on a terminal, JSON lines elsewhere"
    )

    @field_validator("worker_timeout_s")
    @classmethod
    def _leaves_time_for_a_sign(cls, value: float) -> float:
        if 0 < value < _SHORTEST_WORKER_TIMEOUT_S:
            raise ValueError(f"must be 0 or at least {_SHORTEST_WORKER_TIMEOUT_S:g}")
        return value

"""Settings that say who may call, from where, and how much of the service one may hold."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class AccessSettings(BaseSettings):
    """Keys, tokens, rates, origins, certificates, and the port of the operator."""

    api_keys_file: Path | None = Field(
        default=None,
        description="TOML file of API keys, a line of 'adaresnet create-key' each; read again when"
        " it changes; default: nobody is asked for a key",
    )
    api_keys: str | None = Field(
        default=None, description="such lines themselves, instead of the file or besides it"
    )
    rate_limit_requests: float = Field(
        default=0, ge=0, le=1e9, description="requests a second of one key; 0: no limit"
    )
    rate_limit_images: float = Field(
        default=0, ge=0, le=1e9, description="images a second of one key; 0: no limit"
    )
    jwt_issuer: str | None = Field(
        default=None,
        description="URL of an OpenID Connect provider whose tokens are let in, as in their 'iss'",
    )
    jwt_audience: str | None = Field(
        default=None, description="what tokens have in 'aud'; needed with jwt_issuer"
    )
    jwt_jwks_url: str | None = Field(
        default=None, description="where the provider's keys are; default: found by discovery"
    )
    jwt_algorithms: str = Field(
        default="RS256,ES256", description="signatures that are taken, divided by commas"
    )
    jwt_leeway_s: float = Field(
        default=30, ge=0, le=300, description="so far clocks may differ from the provider's"
    )
    jwt_predict_scope: str = Field(
        default="predict",
        min_length=1,
        description="the word in the claims scope, scp or roles that lets a token classify",
    )
    jwt_manage_scope: str = Field(
        default="manage", min_length=1, description="the word that lets it load and unload models"
    )
    cors_origins: str = Field(
        default="",
        description="origins whose pages may call from a browser, divided by commas; * for all",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the certificate and its chain: serve HTTPS"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with its private key")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="serve /metrics, /healthz and /readyz here too, plain and without a key;"
        " /metrics only here then",
    )


class ConnectionSettings(BaseSettings):
    """Limits on connections and on the time that clients take."""

    max_requests: int = Field(
        default=1024, ge=1, description="requests in work at once before 503, of each worker"
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        description="open connections of each worker; over it idle ones are closed, then 503",
    )
    max_head_bytes: int = Field(
        default=64 * 1024, ge=1024, le=2**24, description="largest head of a request before 431"
    )
    max_headers: int = Field(
        default=100, ge=10, le=10_000, description="headers of a request before 431"
    )
    head_timeout_s: float = Field(
        default=10, gt=0, description="time for the head of a request before 408; of TLS too"
    )
    body_pause_timeout_s: float = Field(
        default=10, gt=0, description="longest pause in a request's body before 408"
    )
    body_timeout_s: float = Field(
        default=300, gt=0, description="time for a request's whole body before 408"
    )
    min_body_rate: int = Field(
        default=1024,
        ge=0,
        description="bytes a second that a body must have on average, after the first"
        " body_pause_timeout_s, before 408",
    )
    send_timeout_s: float = Field(
        default=30, gt=0, description="a client that takes nothing of its answer is cut off"
    )
    keep_alive_s: float = Field(
        default=75, gt=0, description="how long an idle connection stays open"
    )

"""Make the gate that the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from service.access_settings import AccessSettings
from service.api.auth.callers import MANAGE, PREDICT, Callers
from service.api.auth.gate import Gate
from service.api.auth.keys import KeyStore
from service.api.auth.rates import RateLimits, SharedRates
from service.api.lifecycle import METRICS

if TYPE_CHECKING:
    from service.api.auth.tokens import TokenVerifier

_URLS = ("jwt_issuer", "jwt_jwks_url")


def build_gate(settings: AccessSettings, rates: SharedRates | None) -> Gate:
    """Make it.

    Args:
        settings: Who is let in.
        rates: Shared with other workers; None: there are none.

    Raises:
        ValueError: A setting is wrong, or does nothing without another.
    """
    limits = RateLimits(settings.rate_limit_requests, settings.rate_limit_images)
    callers = Callers(limits, rates or SharedRates())
    keys = tokens = None
    if settings.api_keys_file is not None or settings.api_keys is not None:
        keys = KeyStore(callers, text=settings.api_keys, file=settings.api_keys_file)
    if settings.jwt_issuer is not None:
        tokens = _token_verifier(settings, callers)
    gate = Gate(keys=keys, tokens=tokens, hidden=() if settings.admin_port is None else (METRICS,))
    for name in ("rate_limit_requests", "rate_limit_images"):
        if getattr(settings, name) and not gate.asks:
            raise ValueError(
                f"{name} is of each key, and there are none: set api_keys_file, api_keys or"
                " jwt_issuer"
            )
    for name in ("jwt_audience", "jwt_jwks_url"):
        if getattr(settings, name) is not None and settings.jwt_issuer is None:
            raise ValueError(f"{name} needs jwt_issuer")
    return gate


def _token_verifier(settings: AccessSettings, callers: Callers) -> TokenVerifier:
    # Only where it is used: cryptography takes memory and time to load.
    from service.api.auth.tokens import ALGORITHMS, TokenOptions, TokenVerifier

    assert settings.jwt_issuer is not None
    if not settings.jwt_audience:
        raise ValueError(
            "jwt_issuer needs jwt_audience: without it, tokens that the provider gives for other"
            " services would be good here"
        )
    algorithms = [name.strip() for name in settings.jwt_algorithms.split(",")]
    for name in algorithms:
        if name not in ALGORITHMS:
            raise ValueError(f"jwt_algorithms: {name!r} is none of {', '.join(ALGORITHMS)}")
    for name in _URLS:
        _check_url(name, getattr(settings, name))
    return TokenVerifier(
        TokenOptions(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            jwks_url=settings.jwt_jwks_url,
            algorithms=algorithms,
            leeway_s=settings.jwt_leeway_s,
            words={PREDICT: settings.jwt_predict_scope, MANAGE: settings.jwt_manage_scope},
        ),
        callers,
    )


def find_risks(settings: AccessSettings) -> Iterator[str]:
    """What ``build_gate`` lets pass although it is unsafe."""
    for name in _URLS:
        parts = _split(getattr(settings, name) or "")
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            yield f"{name} is not https: whoever sits in between can make tokens"


def _check_url(name: str, url: str | None) -> None:
    if url is None:
        return
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name} is {url!r}, which is no URL such as https://id.example.org")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # brackets around what is no address of IPv6
        return urlsplit("")

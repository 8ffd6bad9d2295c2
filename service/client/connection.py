"""What both clients are made of: where the server is, and what every request carries."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import httpx

from service.client.exchange import Endpoint, Send, check_timeout
from service.environment import ENV_PREFIX

OnError = Literal["return", "raise"]

DEFAULT_URL = "http://localhost:8000"
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_RETRIES = 5
DEFAULT_BATCH_SIZE = 32
DEFAULT_IN_FLIGHT = 4

# Shorter than servers keep idle connections (uvicorn: 5 s), so that theirs is not the first end.
_KEEPALIVE_S = 4.0
_KEPT = 32
_BLOCK_BYTES = 2**18


def find_endpoint(url: str | None, retries: int, timeout_s: float | None) -> Endpoint:
    """Where the server is: as given, else as the environment says, else on this machine.

    Raises:
        ValueError: The URL is none of HTTP, or a number is not allowed.
    """
    url = url or os.environ.get(ENV_PREFIX + "URL") or DEFAULT_URL
    try:
        parts = httpx.URL(url)
        right = parts.scheme in ("http", "https") and parts.host and not parts.query
    except httpx.InvalidURL:
        right = False
    if not right:
        raise ValueError(f"url is {url!r}; it must be like {DEFAULT_URL} or https://host/path")
    if retries < 0:
        raise ValueError(f"retries is {retries}; it must be 0 or more")
    check_timeout(timeout_s)
    return Endpoint(url.rstrip("/"), retries, timeout_s)


def http_options(
    api_key: str | None, headers: Mapping[str, str] | None, verify: Any
) -> dict[str, Any]:
    """Arguments for an httpx client.

    Raises:
        ValueError: The key can't be in a header.
    """
    api_key = api_key or os.environ.get(ENV_PREFIX + "API_KEY")
    sent = {"User-Agent": "adaresnet-python", "Accept": "application/json", **(headers or {})}
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise ValueError("api_key must be printable ASCII without spaces")
        sent["Authorization"] = f"Bearer {api_key}"
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=_KEPT, keepalive_expiry=_KEEPALIVE_S
    )
    return {"headers": sent, "verify": verify, "limits": limits}


def blocks(send: Send) -> Iterator[bytes]:
    """The body of a request, a bit at a time, until the deadline."""
    content = memoryview(send.request.content)
    return send.deadline.watch(
        bytes(content[start : start + _BLOCK_BYTES])
        for start in range(0, len(content), _BLOCK_BYTES)
    )


def check_many(batch_size: int, in_flight: int, on_error: str) -> None:
    """Refuse what makes no sense.

    Raises:
        ValueError: A value is not allowed.
    """
    for name, value in (("batch_size", batch_size), ("in_flight", in_flight)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if on_error not in ("return", "raise"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'return' or 'raise'")

"""What browsers are told: whose pages may call, and what our own pages may do."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

Header = tuple[bytes, bytes]

# Set in a request's state to its answer, where it asks whether a page may call.
PREFLIGHT = "preflight"
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
_WANTS = "access-control-request-method"
_CSP = b"content-security-policy"
_OF_PAGES: tuple[Header, ...] = (
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
# Nothing may be loaded or run; a page that needs more brings a policy of its own.
_STRICT: Header = (_CSP, b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'")
_MAY_BE_SENT = (
    *("Authorization", "X-API-Key", "Content-Type", "Accept", "X-Request-ID", "X-Request-Timeout"),
    "Inference-Header-Content-Length",
)
_MAY_BE_READ = (
    *("X-Request-ID", "X-Model", "X-Model-Digest", "X-Batch-Size", "Server-Timing"),
    *("Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate"),
    "Inference-Header-Content-Length",
)


def page_headers(headers: list[Header]) -> tuple[Header, ...]:
    """What is to be added to an answer's headers where it is a page; else nothing."""
    named = dict(headers)
    if not named.get(b"content-type", b"").startswith(b"text/html"):
        return ()
    return _OF_PAGES if _CSP in named else (*_OF_PAGES, _STRICT)


def parse_origins(text: str) -> list[str]:
    """Read origins divided by commas.

    Raises:
        ValueError: One is no origin.
    """
    listed = [origin.strip() for origin in text.split(",") if origin.strip()]
    for origin in listed:
        scheme, _, host = origin.partition("://")
        if origin != "*" and (not scheme or not host or "/" in host):
            raise ValueError(
                f"cors_origins: {origin!r} is no origin; one looks like https://app.example.org,"
                " without a path"
            )
    return listed


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of these origins, or of all by ``*``, call an app.

    What a preflight is to be answered is in its state, and the app only sends it. Cookies are never
    sent: callers show their keys in a header.
    """
    if not origins:
        return app
    return _Origins(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=_MAY_BE_SENT,
        expose_headers=_MAY_BE_READ,
    )


class _Origins(CORSMiddleware):
    """The framework's, which would answer preflights itself, and the app know nothing of them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS" and "origin" in headers and _WANTS in headers:
            scope.setdefault("state", {})[PREFLIGHT] = self.preflight_response(headers)
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

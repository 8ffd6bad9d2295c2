"""What the HTTP layer refuses by itself, before the engine hears of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class Refusal(Exception):  # noqa: N818, it may be nobody's error
    """A request that is answered without being worked on, or that came too slowly.

    Attributes:
        status: HTTP status.
        code: Stable identifier; clients may branch on it.
        title: The kind of refusal, the same for every occurrence.
        detail: What happened this time.
        hint: What would be right.
        headers: Of the answer, besides those that all have.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        hint: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say what happened and what would be right."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = code.replace("_", " ").capitalize()
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})


def unauthorized(detail: str, *, hint: str, error: str = "") -> Refusal:
    """401: nobody that is known.

    Args:
        detail: What is wrong with what was sent.
        hint: What to send.
        error: Of RFC 6750, section 3.1; empty where nothing was sent at all.
    """
    challenge = 'Bearer realm="adaresnet"' + (f', error="{error}"' if error else "")
    return Refusal(401, "unauthorized", detail, hint=hint, headers={"WWW-Authenticate": challenge})


def forbidden(
    any_of: Sequence[str], name: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Refusal:
    """403: the caller is known and may not do this (RFC 6750, section 3.1).

    Args:
        any_of: Scopes of which one would do; the first is what a client should ask for.
        name: Of the caller.
        headers: About its rate.
    """
    challenge = f'Bearer realm="adaresnet", error="insufficient_scope", scope="{any_of[0]}"'
    scopes = " or ".join(map(repr, any_of))
    return Refusal(
        403,
        "forbidden",
        f"{name!r} lacks the scope {scopes}.",
        hint=f"Use a key or token that has the scope {scopes}.",
        headers={"WWW-Authenticate": challenge, **_shown(headers)},
    )


def management_closed() -> Refusal:
    """403: without keys nobody is told apart, so nobody manages."""
    return Refusal(
        403,
        "management_closed",
        "Models can't be managed over HTTP while the service asks nobody for a key.",
        hint="Start the service with api_keys_file, api_keys or jwt_issuer, and use a key that has"
        " the scope 'manage'.",
    )


def rate_limited(
    name: str, what: str, wait_s: int, headers: Iterable[tuple[bytes, bytes]]
) -> Refusal:
    """429: a caller has used up what it may (RFC 6585, section 4)."""
    return Refusal(
        429,
        "rate_limited",
        f"{name!r} has used up its {what} a second.",
        hint=f"Retry after {wait_s} s, or have the rate limit of this key raised.",
        headers={"Retry-After": str(wait_s), **_shown(headers)},
    )


def _shown(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in headers}


def too_many_requests_in_flight(limit: int) -> Refusal:
    """503: the service as a whole has enough to do."""
    return Refusal(
        503,
        "too_many_requests",
        f"The service is working on {limit} requests, which is its limit.",
        hint="Retry after 1 s, or raise max_requests.",
        headers={"Retry-After": "1"},
    )


def too_slow(detail: str) -> Refusal:
    """408: the body came too slowly; what comes of it later is not waited for."""
    return Refusal(
        408,
        "request_too_slow",
        detail,
        hint="Send the body without pauses, or have this setting raised.",
        headers={"Connection": "close"},
    )

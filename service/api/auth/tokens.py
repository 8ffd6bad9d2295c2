"""Tokens of an identity provider: JSON Web Tokens (RFC 7519) with the claims of OpenID Connect."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from service.api.auth.callers import MANAGE, PREDICT, Caller, Callers
from service.api.auth.key_set import Jwk, KeySet, KeySetUnavailableError
from service.api.refusals import Refusal, unauthorized

# Signatures by a private key that only the provider has: never "none", and no shared secrets (HS*),
# for which a public key could be passed off.
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_SCOPE_CLAIMS = ("scope", "scp", "roles")
_MAX_TOKEN_BYTES = 16 * 1024
_REMEMBERED = 1024
_UNFIT_FOR_LOG = re.compile(r"[^\w.@:|/+-]", re.ASCII)
_REASONS: Sequence[tuple[type[Exception], str]] = (
    (jwt.ExpiredSignatureError, "The token has expired."),
    (jwt.ImmatureSignatureError, "The token is not valid yet."),
    (jwt.InvalidAudienceError, "The token is meant for another audience."),
    (jwt.InvalidIssuerError, "The token is of another issuer."),
    (jwt.MissingRequiredClaimError, "The token lacks one of the claims exp, iss, aud."),
    (jwt.InvalidSignatureError, "The token's signature is wrong."),
)


@dataclass(frozen=True)
class TokenOptions:
    """Which tokens are good.

    Attributes:
        issuer: URL of the provider, exactly as its tokens have it in ``iss``.
        audience: That the service goes by in ``aud``.
        jwks_url: Where the keys are; None: found by discovery.
        algorithms: Of ``ALGORITHMS``.
        leeway_s: So far clocks may differ.
        words: The word that stands for each scope in ``scope``, ``scp`` or ``roles``.
    """

    issuer: str
    audience: str
    jwks_url: str | None
    algorithms: Sequence[str]
    leeway_s: float
    words: Mapping[str, str]


class TokenVerifier:
    """Says whose a token is."""

    def __init__(self, options: TokenOptions, callers: Callers) -> None:
        """Know no keys yet; ``keys.watch`` fetches them."""
        self.keys = KeySet(options.issuer, options.jwks_url)
        self._options = options
        self._callers = callers
        self._verified: dict[bytes, tuple[Caller, float]] = {}
        self._generation = 0

    async def verify(self, token: bytes) -> Caller:
        """Check a token; one that was good a moment ago is known by its hash.

        Raises:
            Refusal: 401 for a token that is not good; 503 if the provider has never told its keys.
        """
        if self._generation != self.keys.generation:
            self._generation = self.keys.generation
            self._verified.clear()  # keys may be gone
        digest = hashlib.sha256(token).digest()
        found = self._verified.get(digest)
        if found is not None and time.time() < found[1]:
            return found[0]
        claims = await self._claims(token)
        caller = self._caller(claims)
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[digest] = caller, claims["exp"] + self._options.leeway_s
        return caller

    async def _claims(self, token: bytes) -> dict[str, Any]:
        options = self._options
        if len(token) > _MAX_TOKEN_BYTES:
            raise _invalid(f"The token has more than {_MAX_TOKEN_BYTES} bytes.")
        try:
            head = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise _invalid("The token is no JSON Web Token.") from None
        algorithm = head.get("alg")
        if algorithm not in options.algorithms:
            raise _invalid(f"The token is not signed with {' or '.join(options.algorithms)}.")
        try:
            key = await self.keys.find(head.get("kid"))
        except KeySetUnavailableError:
            raise Refusal(
                503,
                "identity_provider_unavailable",
                "The token can't be checked: the identity provider has not told its key yet.",
                hint="Retry later; API keys work meanwhile.",
                headers={"Retry-After": "10"},
            ) from None
        if key is None or key.get("alg", algorithm) != algorithm:
            raise _invalid("The token names no key of the identity provider.")
        try:
            return _decode(token, key, algorithm, options)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            reasons = (text for kind, text in _REASONS if isinstance(error, kind))
            raise _invalid(next(reasons, "The token is not valid.")) from None

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        words: set[str] = set()
        for claim in _SCOPE_CLAIMS:
            value = claims.get(claim, ())
            words.update(value.split() if isinstance(value, str) else map(str, _listed(value)))
        scopes = [scope for scope in (PREDICT, MANAGE) if self._options.words[scope] in words]
        subject = str(claims.get("sub") or claims.get("azp") or claims.get("client_id") or "")
        name = _UNFIT_FOR_LOG.sub("?", subject)[:64] or "token"
        return self._callers.make(name, scopes, counted_as=f"token {subject}")


def _decode(token: bytes, key: Jwk, algorithm: str, options: TokenOptions) -> dict[str, Any]:
    return jwt.decode(
        token,
        jwt.PyJWK(dict(key), algorithm=algorithm).key,
        algorithms=[algorithm],
        audience=options.audience,
        issuer=options.issuer,
        leeway=options.leeway_s,
        options={"require": ["exp", "iss", "aud"]},
    )


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _invalid(detail: str) -> Refusal:
    return unauthorized(
        detail, hint="Get a new token from the identity provider.", error="invalid_token"
    )

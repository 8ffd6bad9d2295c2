"""The gate: what needs which scope, and who is let through.

What a request needs follows from the same path that the router sees, so there is no other spelling
of it that leads round the gate. What is not named as open needs a key.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Scope

from service.api.auth.callers import MANAGE, PREDICT, SCOPES, Caller
from service.api.auth.keys import KeyStore
from service.api.lifecycle import LIVE, METRICS, PROBES, READY, STARTED
from service.api.refusals import forbidden, management_closed, rate_limited, unauthorized

if TYPE_CHECKING:
    from service.api.auth.tokens import TokenVerifier

_FOR_OPERATORS = (LIVE, READY, STARTED, METRICS)
ALWAYS_ANSWERED = PROBES | {"/"}  # however many requests are in work
OPEN = ALWAYS_ANSWERED - {METRICS}
_MANAGEMENT, _INDEX = "/v2/repository", "/v2/repository/index"
_READING = ("GET", "HEAD", "OPTIONS")
_ANY, _NOTHING = "any", ""
# Set in a request's state: who sends it.
CALLER = "caller"
_DOTS_OF_A_TOKEN = 2
_KEY_HINT = "Send a key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."


class Gate:
    """Lets requests through, or refuses them."""

    def __init__(
        self,
        *,
        keys: KeyStore | None = None,
        tokens: TokenVerifier | None = None,
        hidden: Collection[str] = (),
    ) -> None:
        """Ask for what there is.

        Args:
            keys: API keys; None: there are none, and not only none now.
            tokens: Of an identity provider; None: there is none.
            hidden: Paths that are served elsewhere.
        """
        self._keys = keys
        self._tokens = tokens
        self._hidden = frozenset(hidden)
        self.asks = keys is not None or tokens is not None

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run beside the requests, so that new keys are known."""
        watches = [self._keys.watch()] if self._keys else []
        return [*watches, self._tokens.keys.watch()] if self._tokens else watches

    async def admit(self, scope: Scope) -> Caller | None:
        """Let a request through.

        Returns:
            Who sends it; None where nobody is asked.

        Raises:
            Refusal: 401, 403, 429, or 503 where a token can't be checked.
            HTTPException: 404 for what is served elsewhere.
        """
        path = scope["path"]
        if path in self._hidden:
            raise HTTPException(404)
        if not self.asks:
            if scope["method"] == "POST" and _manages(path):  # by others nothing is managed
                raise management_closed()
            return None
        needed = needed_scope(scope["method"], path)
        if needed == _NOTHING:
            return None
        caller = await self._identify(scope)
        scope["state"][CALLER] = caller
        if caller.meter is not None and (used_up := caller.meter.begin()) is not None:
            raise rate_limited(caller.name, *used_up, caller.meter.headers())
        any_of = SCOPES if needed == _ANY else (needed,)
        if caller.scopes.isdisjoint(any_of):
            rate = [] if caller.meter is None else caller.meter.headers()
            raise forbidden(any_of, caller.name, rate)
        return caller

    async def _identify(self, scope: Scope) -> Caller:
        bearer, key = _credentials(scope)
        if bearer is None and key is None:
            raise unauthorized("The request has no key.", hint=_KEY_HINT)
        if bearer is not None and self._tokens is not None:
            key = None  # what is in Authorization is meant for this service, be it good or bad
        for given in (bearer, key):
            if self._keys is None or given is None:
                continue
            if (caller := self._keys.find(given)) is not None:
                return caller
        if self._tokens is not None and bearer and bearer.count(b".") == _DOTS_OF_A_TOKEN:
            return await self._tokens.verify(bearer)
        raise unauthorized("The key is not known here.", hint=_KEY_HINT, error="invalid_token")


class AdminGate(Gate):
    """Of the port for probes and metrics, which has nothing else and asks nobody."""

    async def admit(self, scope: Scope) -> Caller | None:
        """Let probes and metrics through.

        Raises:
            HTTPException: 404 for all else.
        """
        if scope["path"] not in _FOR_OPERATORS:
            raise HTTPException(404)
        return None


def needed_scope(method: str, path: str) -> str:
    """What a request needs: a scope, any of them, or nothing."""
    if _manages(path):
        return MANAGE
    if method in _READING:
        return _NOTHING if path in OPEN else _ANY
    return _ANY if path == _INDEX else PREDICT


def _manages(path: str) -> bool:
    return path.startswith(_MANAGEMENT) and path != _INDEX


def management_allowed(request: Request) -> bool:
    """Whether a request's sender may load and unload models; the gate has asked already."""
    caller: Caller | None = request.scope["state"].get(CALLER)
    return caller is not None and MANAGE in caller.scopes


def _credentials(scope: Scope) -> tuple[bytes | None, bytes | None]:
    """What a request has in ``Authorization: Bearer``, and in ``X-API-Key``."""
    bearer: bytes | None = None
    key: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization" and bearer is None:
            kind, _, credential = value.partition(b" ")
            if kind.lower() == b"bearer":
                bearer = credential.strip() or None
        elif name == b"x-api-key" and key is None:
            key = value.strip() or None
    return bearer, key

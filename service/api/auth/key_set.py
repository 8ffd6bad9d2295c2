"""The public keys of an identity provider (JWKS, RFC 7517), found by OpenID Connect Discovery.

They are fetched beside the requests, which wait a moment at most, and only where a token names a
key that is not known. A provider that is down takes nothing away: the keys that there are go on,
and only where there never were any, or where it hangs while a new one is asked for, tokens can't be
judged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx
import orjson

_REFRESH_S = 300.0
# So often at most, whatever key ids people make up, and whether the provider answers or not.
_RETRY_S = 10.0
_TIMEOUT_S = 5.0
_WAIT_S = 2.0  # of those who ask meanwhile
_MAX_BYTES = 2**20
_TYPES = ("RSA", "EC", "OKP")  # never "oct": a key that verifies must not be one that signs
_DISCOVERY = "/.well-known/openid-configuration"
_logger = logging.getLogger(__name__)

Jwk = Mapping[str, Any]


class KeySetUnavailableError(Exception):
    """No keys were ever fetched, or the one that is asked for may be among those on the way."""


class KeySet:
    """Keys by their id, fetched again every five minutes and when a new id turns up."""

    def __init__(self, issuer: str, jwks_url: str | None) -> None:
        """Fetch nothing yet.

        Args:
            issuer: URL of the provider, exactly as its tokens have it.
            jwks_url: Where its keys are; None: where its discovery document says.
        """
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._keys: dict[str | None, Jwk] | None = None
        self._tried_at_s = -_RETRY_S
        self._fetching: asyncio.Task[None] | None = None
        self.generation = 0  # of the keys; another number means that keys have changed

    async def find(self, key_id: str | None) -> Jwk | None:
        """The key with this id; without an id the only one.

        Raises:
            KeySetUnavailableError: The provider has never told its keys, or takes long to tell
                this one.
        """
        key = self._known(key_id)
        if key is None:
            if (fetching := self._fetch_again()) is not None:
                await asyncio.wait((fetching,), timeout=_WAIT_S)
            key = self._known(key_id)
        if self._keys is None or (key is None and self._fetching is not None):
            raise KeySetUnavailableError
        return key

    async def watch(self) -> None:
        """Keep the keys up to date."""
        while True:
            if (fetching := self._fetch_again()) is not None:
                await asyncio.wait((fetching,))
            fresh = self._keys is not None
            await asyncio.sleep(_REFRESH_S if fresh else _RETRY_S)

    def _known(self, key_id: str | None) -> Jwk | None:
        keys = self._keys or {}
        if key_id is None and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(key_id)

    def _fetch_again(self) -> asyncio.Task[None] | None:
        """Fetch, unless that was tried a moment ago; the same fetch for all who ask meanwhile."""
        if self._fetching is None:
            now_s = time.monotonic()
            if now_s - self._tried_at_s < _RETRY_S:
                return None
            self._tried_at_s = now_s
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S):
                keys = await asyncio.to_thread(self._download)
        except Exception as error:
            kept = "; the keys from before go on" if self._keys is not None else ""
            reason = str(error) or type(error).__name__
            _logger.error("can't fetch the keys of %s: %s%s", self._issuer, reason, kept)
        else:
            if keys != self._keys:
                self._keys = keys
                self.generation += 1
                _logger.info("fetched %d keys of %s", len(keys), self._issuer)
        finally:
            self._fetching = None

    def _download(self) -> dict[str | None, Jwk]:
        with httpx.Client(timeout=_TIMEOUT_S) as client:
            url = self._jwks_url
            if url is None:
                found = _get_json(client, self._issuer.rstrip("/") + _DISCOVERY)
                if found.get("issuer") != self._issuer:
                    # OpenID Connect Discovery 1.0, section 4.3
                    raise ValueError(f"its discovery document is of {found.get('issuer')!r}")
                url = str(found.get("jwks_uri"))
            listed = _get_json(client, url).get("keys")
        if not isinstance(listed, list):
            raise ValueError("its key set has no list 'keys'")
        return {
            key.get("kid"): key
            for key in listed
            if isinstance(key, dict)
            and key.get("kty") in _TYPES
            and key.get("use", "sig") == "sig"
            and isinstance(key.get("kid"), str | None)
        }


def _get_json(client: httpx.Client, url: str) -> dict[str, Any]:
    body = bytearray()
    with client.stream("GET", url) as answer:
        if answer.status_code != httpx.codes.OK:
            raise ValueError(f"{url} answers with status {answer.status_code}")
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > _MAX_BYTES:
                raise ValueError(f"{url} has more than {_MAX_BYTES} bytes")
    found = orjson.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"{url} is no JSON object")
    return found

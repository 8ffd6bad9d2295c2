"""API keys: random texts of which the service is told the SHA-256 only.

A key has 256 random bits, so nobody can guess it from its hash, and a slow hash as passwords need
would only make each request slow. ::

    phone-app = {hash = "sha256:9f86d081...", scopes = ["predict"]}
    deploy = {hash = ["sha256:60303ae2...", "sha256:fd61a03a..."], scopes = ["predict", "manage"]}

Several hashes under one name are for the time in which a key is being replaced.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from service.api.auth.callers import PREDICT, Caller, Callers, Scope
from service.api.auth.rates import RateLimits

_LOOK_EVERY_S = 1.0
_HASH_PREFIX = "sha256:"
_RANDOM_BYTES = 32
_logger = logging.getLogger(__name__)

Hash = Annotated[str, Field(pattern=rf"^{_HASH_PREFIX}[0-9a-fA-F]{{64}}$")]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # a bare key of TOML


class _Entry(BaseModel, frozen=True, extra="forbid"):
    hash: Hash | Annotated[list[Hash], Field(min_length=1)]
    scopes: Annotated[list[Scope], Field(min_length=1)] = [PREDICT]
    requests_per_s: Rate | None = None
    images_per_s: Rate | None = None

    @property
    def digests(self) -> list[bytes]:
        hashes = [self.hash] if isinstance(self.hash, str) else self.hash
        return [bytes.fromhex(text.removeprefix(_HASH_PREFIX)) for text in hashes]


def new_key() -> str:
    """Draw a key."""
    return f"ada_{secrets.token_urlsafe(_RANDOM_BYTES)}"


def line_of(name: str, key: str, scopes: list[str]) -> str:
    """The line that makes a service know a key, without the key."""
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f'{name} = {{hash = "{_HASH_PREFIX}{digest}", scopes = [{listed}]}}'


def parse_keys(text: str, callers: Callers) -> dict[bytes, Caller]:
    """Read keys as TOML.

    Returns:
        Callers by the SHA-256 of their keys, 32 bytes.

    Raises:
        ValueError: It is no TOML, or an entry is wrong; names the entry and never what it holds,
            which might be a key.
    """
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"no TOML: {error}") from None
    found: dict[bytes, Caller] = {}
    for name, value in entries.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r} is no name: letters, digits, '_', '-'")
        entry = _parse_entry(name, value)
        limits = RateLimits(entry.requests_per_s, entry.images_per_s)
        caller = callers.make(name, entry.scopes, limits=limits)
        for digest in entry.digests:
            if found.setdefault(digest, caller) is not caller:
                raise ValueError(f"{found[digest].name!r} and {name!r} have the same hash")
    return found


def _parse_entry(name: str, value: object) -> _Entry:
    hint = "'adaresnet create-key' writes such a line"
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no table in braces; {hint}")
    try:
        return _Entry.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join([name, *(str(part) for part in first["loc"])])
        raise ValueError(f"{where}: {first['msg']}; {hint}") from None


class KeyStore:
    """The keys that the service knows, read again when their file changes."""

    def __init__(self, callers: Callers, *, text: str | None, file: Path | None) -> None:
        """Read them.

        Args:
            callers: Makes the callers.
            text: Keys that stay.
            file: A file of keys that may change.

        Raises:
            ValueError: One of both is wrong, or the file can't be read.
        """
        self._callers = callers
        self._text = text or ""
        self._file = file
        self._seen_file: object = None
        self._keys: Mapping[bytes, Caller] = {}
        self._verified: dict[bytes, Caller] = {}
        self._read()

    def find(self, key: bytes) -> Caller | None:
        """Whose key this is.

        Keys are compared in constant time, all of them. One that was right before is found by its
        hash, in a table whose own hashing is keyed: how long that takes says nothing of others.
        """
        digest = hashlib.sha256(key).digest()
        caller = self._verified.get(digest)
        if caller is None:
            for known, owner in self._keys.items():
                if hmac.compare_digest(known, digest):
                    caller = owner
            if caller is not None:
                self._verified[digest] = caller
        return caller

    async def watch(self) -> None:
        """Look at the file every second; what is wrong with it is logged, and the keys stay."""
        while self._file is not None:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._stat() == self._seen_file:
                continue
            try:
                self._read()
            except ValueError as error:
                _logger.error("%s; the keys from before go on", error)
            else:
                names = sorted({caller.name for caller in self._keys.values()})
                _logger.info("read the API keys again: %s", ", ".join(names) or "none")

    def _read(self) -> None:
        """Take the keys as they are now.

        Raises:
            ValueError: They are wrong.
        """
        self._seen_file = self._stat()
        try:
            keys = parse_keys(self._text, self._callers)
        except ValueError as error:
            raise ValueError(f"api_keys: {error}") from None
        if self._file is not None:
            try:
                more = parse_keys(self._file.read_text("utf-8"), self._callers)
            except OSError as error:
                raise ValueError(f"api_keys_file {self._file}: {error.strerror}") from None
            except ValueError as error:
                raise ValueError(f"api_keys_file {self._file}: {error}") from None
            if not more and not keys:
                _logger.warning("there are no API keys: nobody may call")
            keys = {**more, **keys}
        self._keys, self._verified = keys, {}

    def _stat(self) -> object:
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError as error:
            return error.errno
        return found.st_mtime_ns, found.st_size, found.st_ino

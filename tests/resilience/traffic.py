"""Clients that send good requests meanwhile, and account for every one of them."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.resilience.ledger import Ledger
from tests.system.flood.pictures import FORMATS, IDENTITIES, file_of, pixels_of

MODEL = "identities"
_PATH = f"/v1/classify?model={MODEL}&top_k=1"
_LINES = "application/x-ndjson"
_NPY = "application/x-npy"
_MANY = 100
_A_CONNECTION = 20  # requests, then a new one, which may lead to another worker
_AGAIN_S = 0.05
_REFUSED = frozenset((503, 504))


@dataclass(frozen=True)
class Terms:
    """What may become of a good request besides its right answer.

    Attributes:
        refusals: Codes of a 503 or 504.
        cuts: The fault kills processes; their connections go with them, and clients ask again.
        ends: The service is told to stop: nobody may listen any more.
        patience_s: An answer that takes longer is lost.
    """

    refusals: frozenset[str] = frozenset()
    cuts: bool = False
    ends: bool = False
    patience_s: float = 60.0


STRICT = Terms()


@dataclass(frozen=True)
class Request:
    """A good request.

    Attributes:
        body: All of it.
        content_type: Of the body.
        identities: That the pictures have, in order.
        lines: Whether a line an image is asked for.
    """

    body: bytes
    content_type: str
    identities: list[int]
    lines: bool = False


def single(rng: np.random.Generator) -> Request:
    """One picture."""
    identity, kind = int(rng.integers(IDENTITIES)), FORMATS[rng.integers(len(FORMATS))]
    return Request(file_of(identity, kind), f"image/{kind.lower()}", [identity])


def many(rng: np.random.Generator) -> Request:
    """An array of pictures."""
    identities: list[int] = rng.integers(0, IDENTITIES, _MANY).tolist()
    body = io.BytesIO()
    np.save(body, pixels_of(identities))
    return Request(body.getvalue(), _NPY, identities)


def lines(rng: np.random.Generator) -> Request:
    """The same, with an answer of one line each."""
    asked = many(rng)
    return Request(asked.body, asked.content_type, asked.identities, lines=True)


MAKERS: tuple[Callable[[np.random.Generator], Request], ...] = (single, single, single, many, lines)


@dataclass
class Traffic:
    """Threads that send good requests, one after the other, while the context lasts.

    Attributes:
        port: Of the service.
        ledger: Where every request is entered.
        terms: What may become of them.
        makers: What each thread sends.
        digests: Of every file that may answer, by its tag.
        tags: Of the files that have answered.
        pause_s: Between two requests of a thread.
        headers: Sent with every request.
        told: Called with every request that was answered, and the seconds that it took.
    """

    port: int
    ledger: Ledger
    terms: Terms = STRICT
    makers: tuple[Callable[[np.random.Generator], Request], ...] = MAKERS
    digests: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    pause_s: float = 0.005
    headers: dict[str, str] = field(default_factory=dict)
    told: Callable[[Request, float], None] | None = None
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._threads = [
            threading.Thread(target=self._send_on, args=(make, number))
            for number, make in enumerate(self.makers)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Send no more, and wait for the last answers."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def progress(self, right: int = 50, timeout_s: float = 90.0) -> None:
        """Wait until so many more right answers have come."""
        wanted, until = self.ledger.right + right, time.monotonic() + timeout_s
        while self.ledger.right < wanted:
            assert time.monotonic() < until, "no more answers: " + "; ".join(
                self.ledger.complaints() or ["nothing is known to be wrong"]
            )
            time.sleep(0.02)

    def _send_on(self, make: Callable[[np.random.Generator], Request], seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self._end.is_set():
            connection = self._connection()
            with contextlib.closing(connection):
                for _ in range(_A_CONNECTION):
                    if self._end.is_set() or not self._account(connection, make(rng)):
                        break
                    self._end.wait(self.pause_s)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.terms.patience_s)

    def _account(self, connection: http.client.HTTPConnection, request: Request) -> bool:
        """Send until it is answered, and enter what came of it; false where nobody listens."""
        self.ledger.begin()
        began = time.monotonic()
        until = began + self.terms.patience_s
        while True:
            fresh, sent = connection.sock is None, time.monotonic()
            try:
                status, headers, body = _exchange(connection, request, self.headers)
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # Refused: it had not been sent.
                if self.terms.ends and isinstance(error, ConnectionRefusedError):
                    self.ledger.miss()
                    self._end.set()
                    return False
                if not self.terms.cuts or time.monotonic() > until:
                    self.ledger.lose(
                        f"{type(error).__name__} {error}, {time.monotonic() - sent:.2f} s after"
                        f" {'connecting' if fresh else 'sending on an open connection'},"
                        f" {len(request.body)} bytes, {'lines' if request.lines else 'JSON'}"
                    )
                    return True
                self.ledger.break_off()
                self._end.wait(_AGAIN_S)
        if self.told is not None:
            self.told(request, time.monotonic() - began)
        self._enter(request, status, headers, body)
        return True

    def _enter(self, request: Request, status: int, headers: dict[str, str], body: bytes) -> None:
        if status == 200:
            try:
                self._check(request, headers, body)
            except (AssertionError, KeyError, ValueError, IndexError) as error:
                self.ledger.mistake(f"{type(error).__name__} {error}: {body[:200]!r}")
            except _BrokenOffError as error:
                self.ledger.refuse(str(error))
            else:
                self.ledger.answer()
            return
        code = code_of(body)
        wait = headers.get("retry-after", "")
        if status in _REFUSED and code in self.terms.refusals and wait.isdigit() and int(wait):
            self.ledger.refuse(code)
        elif status >= 500:
            self.ledger.fail(f"{status} Retry-After={wait!r} {body[:200]!r}")
        else:
            self.ledger.mistake(f"{status} {body[:200]!r}")

    def _check(self, request: Request, headers: dict[str, str], body: bytes) -> None:
        if request.lines:
            results = [json.loads(line) for line in body.splitlines()]
            code = results[-1].get("error", {}).get("code")
            if "index" not in results[-1] and code in self.terms.refusals:
                raise _BrokenOffError(code)
            assert [result["index"] for result in results] == list(range(len(results)))
        else:
            results = json.loads(body)["results"]
        assert len(results) == len(request.identities), f"{len(results)} results"
        tags = set()
        for result, identity in zip(results, request.identities, strict=True):
            tag, _, found = result["predictions"][0]["label"].partition(":")
            assert int(found) == identity, f"{identity} is answered as {found}"
            tags.add(tag)
        (tag,) = tags  # one file answers all of a request
        if self.digests:
            assert headers["x-model-digest"] == self.digests[tag], f"another file than {tag}"
        self.tags.add(tag)


class _BrokenOffError(Exception):
    """An answer of lines that ends with one which says why there are no more."""


def _exchange(
    connection: http.client.HTTPConnection, request: Request, more: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    headers = {"Content-Type": request.content_type, **more}
    if request.lines:
        headers["Accept"] = _LINES
    connection.request("POST", _PATH, request.body, headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.getheader("Connection", "").lower() == "close":
        connection.close()  # http.client opens another for the next request
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def code_of(body: bytes) -> str:
    """The code of a problem document; empty where the body is none."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        found: Any = json.loads(body)
        return str(found.get("code", ""))
    return ""

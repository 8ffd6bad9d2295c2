"""Clients that misbehave all the time: they hang up, have no patience, and send nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.resilience.hostile.exchange import act
from tests.resilience.hostile.inputs import HUNG_UP, Input
from tests.resilience.traffic import MODEL, many, single
from tests.system.flood.pictures import BAD

_PATH = f"/v1/classify?model={MODEL}"
_EVERY = 7  # of the hostile inputs, so that a sample of all kinds is soon through
_BUSY = frozenset((503, 504))


@dataclass
class Rough:
    """Three threads of them while the context lasts.

    Attributes:
        port: Of the service.
        ended: How often what became of whom.
        failures: Answers that nobody may get.
    """

    port: int
    ended: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Rough:
        work = (self._hang_up, self._hurry_and_err, self._be_hostile)
        self._threads = [threading.Thread(target=one) for one in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    @property
    def sent(self) -> int:
        """Clients so far."""
        return self.ended.total()

    def describe(self) -> str:
        """All that became of them."""
        return ", ".join(f"{count} {what}" for what, count in sorted(self.ended.items()))

    def _hang_up(self) -> None:
        rng = np.random.default_rng(1)
        while not self._end.wait(0.05):
            request = many(rng)
            head = (
                f"POST {_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {request.content_type}\r\n"
                f"Content-Length: {len(request.body)}\r\n\r\n"
            ).encode()
            data = head + request.body
            sent = data[: int(rng.integers(1, len(data) + 1))] if rng.integers(2) else data
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection,
            ):
                if rng.integers(2):  # all that is on its way is thrown away
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.sendall(sent)
                self._end.wait(float(rng.uniform(0, 0.05)))
            self.ended["hung up"] += 1

    def _hurry_and_err(self) -> None:
        rng = np.random.default_rng(2)
        while not self._end.wait(0.02):
            hurried = bool(rng.integers(2))
            if hurried:
                body = (many if rng.integers(2) else single)(rng).body
                headers = {"X-Request-Timeout": f"{rng.integers(1, 30)}ms"}
                expected, what = {200, *_BUSY}, "in a hurry"
            else:
                body, headers = BAD[rng.integers(len(BAD))], {"Content-Type": "image/png"}
                expected, what = {422, *_BUSY}, "with a bad image"
            try:
                status, code = self._ask(body, headers)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{what}: {type(error).__name__} {error}")
                continue
            if status not in expected or (status in _BUSY and not code):
                self.failures.append(f"{what}: {status} {code}")
            self.ended[what] += 1

    def _ask(self, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", _PATH, body, headers)
            answer = connection.getresponse()
            found = answer.read()
        if answer.status == 200:
            return 200, ""
        return answer.status, str(json.loads(found).get("code", ""))

    def _be_hostile(self) -> None:
        for case in self._sample():
            if self._end.wait(0.05):
                return
            try:
                answers = asyncio.run(act(self.port, case))
            except (OSError, TimeoutError) as error:
                self.failures.append(f"{case.kind}, {case.name}: {type(error).__name__} {error}")
                continue
            for answer in answers:
                known = answer.status == HUNG_UP or answer.status in case.expected | _BUSY
                if answer.status >= 500 and not known:
                    self.failures.append(f"{case.kind}, {case.name}: {answer.status}")
            self.ended["hostile"] += 1

    def _sample(self) -> Iterator[Input]:
        """Again and again another part of all inputs."""
        from tests.resilience.hostile.attack import hostile_inputs

        for start in itertools.cycle(range(_EVERY)):
            for case in itertools.islice(hostile_inputs(), start, None, _EVERY):
                if not case.slow:
                    yield case

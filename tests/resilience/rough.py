"""Clients that misbehave all the time: they hang up, have no patience, and send nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tests.resilience.hostile.exchange import act
from tests.resilience.hostile.inputs import HUNG_UP, Input
from tests.resilience.traffic import MODEL, code_of, many, single
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
        failures: Answers that nobody may get, and what else went wrong for a client.
    """

    port: int
    ended: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Rough:
        cases = self._sample()
        work: tuple[tuple[str, float, Callable[[], None]], ...] = (
            ("hanging up", 0.05, partial(self._hang_up, np.random.default_rng(1))),
            ("in a hurry or wrong", 0.02, partial(self._hurry_or_err, np.random.default_rng(2))),
            ("hostile", 0.05, lambda: self._be_hostile(next(cases))),
        )
        self._threads = [threading.Thread(target=self._repeat, args=one) for one in work]
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

    def _repeat(self, what: str, pause_s: float, once: Callable[[], None]) -> None:
        while not self._end.wait(pause_s):
            try:
                once()
            except Exception as error:  # whatever it is: a client that is silent finds nothing
                self.failures.append(f"{what}: {type(error).__name__} {error}")

    def _hang_up(self, rng: np.random.Generator) -> None:
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

    def _hurry_or_err(self, rng: np.random.Generator) -> None:
        hurried = bool(rng.integers(2))
        if hurried:
            body = (many if rng.integers(2) else single)(rng).body
            headers = {"X-Request-Timeout": f"{rng.integers(1, 30)}ms"}
            expected, what = {200, *_BUSY}, "in a hurry"
        else:
            body, headers = BAD[rng.integers(len(BAD))], {"Content-Type": "image/png"}
            expected, what = {422, *_BUSY}, "with a bad image"
        status, code = self._ask(body, headers)
        if status not in expected or (status in _BUSY and not code):
            self.failures.append(f"{what}: {status} {code}")
        self.ended[what] += 1

    def _ask(self, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", _PATH, body, headers)
            answer = connection.getresponse()
            found = answer.read()
        return answer.status, "" if answer.status == 200 else code_of(found)

    def _be_hostile(self, case: Input) -> None:
        name = f"{case.kind}, {case.name}"
        try:
            answers = asyncio.run(act(self.port, case))
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__} {error}")
            return
        for answer in answers:
            known = answer.status == HUNG_UP or answer.status in case.expected | _BUSY
            if answer.status >= 500 and not known:
                self.failures.append(f"{name}: {answer.status}")
        self.ended["hostile"] += 1

    def _sample(self) -> Iterator[Input]:
        """Again and again another part of all inputs."""
        from tests.resilience.hostile.attack import hostile_inputs

        for start in itertools.cycle(range(_EVERY)):
            for case in itertools.islice(hostile_inputs(), start, None, _EVERY):
                if not case.slow:
                    yield case

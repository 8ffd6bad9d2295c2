"""What was sent, what came of it, and whether that was right."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

_SHOWN = 5


@dataclass
class Ledger:
    """Every good request has exactly one end here. Safe from all threads.

    Attributes:
        sent: Good requests that were begun.
        right: Got the answer that they must have.
        refused: Got a 503 or 504 that says so, with Retry-After, where it may be; by code.
        not_taken: Found nobody listening any more, while the service was told to stop.
        cut: Times that a connection broke because the fault killed the process that held it. The
            client then asks again, and it is that answer which counts.
        lost: Never got an answer, or had their connection cut for no such reason.
        wrong: Got another answer than they must have.
        server_errors: Got a status of 500 or more that nothing explains.
    """

    sent: int = 0
    right: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    not_taken: int = 0
    cut: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self) -> None:
        """A good request is about to be sent."""
        with self.lock:
            self.sent += 1

    def answer(self) -> None:
        """It got the answer that it must have."""
        with self.lock:
            self.right += 1

    def refuse(self, code: str) -> None:
        """It was refused as it may be."""
        with self.lock:
            self.refused[code] += 1

    def miss(self) -> None:
        """Nobody listens any more, and nobody has to."""
        with self.lock:
            self.not_taken += 1

    def break_off(self) -> None:
        """Its connection went with the process that held it; it is sent again."""
        with self.lock:
            self.cut += 1

    def lose(self, why: str) -> None:
        """It has no answer."""
        with self.lock:
            self.lost.append(why)

    def mistake(self, why: str) -> None:
        """It got a wrong answer."""
        with self.lock:
            self.wrong.append(why)

    def fail(self, why: str) -> None:
        """It got a 5xx that nothing explains."""
        with self.lock:
            self.server_errors.append(why)

    @property
    def ended(self) -> int:
        """Requests that have come to an end, whichever."""
        bad = len(self.lost) + len(self.wrong) + len(self.server_errors)
        return self.right + self.refused.total() + self.not_taken + bad

    def complaints(self) -> list[str]:
        """What is not as it must be; empty where all is well."""
        found = [
            f"{what}: {one}"
            for what, cases in (
                ("lost", self.lost),
                ("wrong", self.wrong),
                ("5xx", self.server_errors),
            )
            for one in cases[:_SHOWN]
        ]
        if self.ended != self.sent:
            found.append(f"{self.sent} requests were begun and {self.ended} have ended")
        return found

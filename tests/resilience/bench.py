"""What a fault is given to work with, and how it is told to be well."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.resilience.ledger import Ledger
from tests.resilience.repository import Repository
from tests.resilience.service import Held, Service, Way, serving
from tests.resilience.traffic import STRICT, Terms, Traffic

# What a process may hold more than before: the C library keeps some of what was freed.
MORE_MIB_A_PROCESS = 64.0
_WARM_UP = 150  # right answers
_AFTERWARDS = 50
_USUAL = ("--repository-poll-s", "0.1", "--drain-delay-s", "0")
_TRACE = re.compile(r"Traceback|Exception in ASGI", re.IGNORECASE)


class NotHereError(Exception):
    """This machine can't have the fault; the message says why."""


@dataclass
class Scene:
    """A service under traffic, and what it serves."""

    repository: Repository
    service: Service
    traffic: Traffic
    before: Held


@dataclass
class Bench:
    """The place of one fault.

    Attributes:
        folder: For all files; empty at first.
        reduced: Fewer rounds, for a quick look.
        ledger: Of every good request that was sent.
        growth_mib: Resident memory of the service at the end, over that before the fault; the most,
            where it was measured several times.
        limit_mib: What that may be.
    """

    folder: Path
    reduced: bool = False
    ledger: Ledger = field(default_factory=Ledger)
    growth_mib: float = 0.0
    limit_mib: float = MORE_MIB_A_PROCESS
    _places: int = 0

    def rounds(self, full: int, reduced: int) -> int:
        """How often to do something."""
        return reduced if self.reduced else full

    def place(self) -> Path:
        """A new folder."""
        self._places += 1
        path = self.folder / str(self._places)
        path.mkdir(parents=True)
        return path

    def repository(self) -> Repository:
        """A new repository with version 1, whose tag is 1.0."""
        repository = Repository(self.place() / "models")
        repository.publish(1, "1.0")
        return repository

    @contextlib.contextmanager
    def under_traffic(
        self,
        *flags: str,
        workers: int = 0,
        way: Way | None = None,
        terms: Terms = STRICT,
        ends: bool = False,
        may_log: str = "",
        headers: dict[str, str] | None = None,
    ) -> Iterator[Scene]:
        """Start a service and traffic; afterwards all must be well, unless the service ends in it.

        Args:
            flags: Of the service.
            workers: Processes that serve; 0: the one that is started.
            way: How it is started.
            terms: What may become of good requests.
            ends: The fault ends the service, and looks at that itself.
            may_log: A regular expression of traces that the log may have.
            headers: Sent with every good request.
        """
        repository = self.repository()
        folder = repository.root.parent
        settings = (*_USUAL, *flags)
        with serving(
            repository.root, folder, *settings, port=free_port(), workers=workers, way=way
        ) as service:
            traffic = Traffic(
                service.port,
                self.ledger,
                terms,
                digests=repository.digests,
                headers=headers or {},
            )
            with traffic:
                traffic.progress(_WARM_UP)
                scene = Scene(repository, service, traffic, service.settled(0.5))
                yield scene
                if not ends:
                    service.check_alive()
                    traffic.progress(_AFTERWARDS)
            if not ends:
                self._end(scene)
        found = traces(service.text(), may_log)
        assert not found, found[0]

    def _end(self, scene: Scene) -> None:
        scene.service.wait_ready()
        processes = max(1, scene.service.workers)
        growth = (scene.service.settled().rss_mib - scene.before.rss_mib) / processes
        self.growth_mib = max(self.growth_mib, growth)
        status = scene.service.stop()
        assert status == 0, f"SIGTERM ended it with status {status}: {scene.service.text()[-600:]}"

    def complaints(self) -> list[str]:
        """What is not as it must be; empty where all is well."""
        found = self.ledger.complaints()
        if self.growth_mib > self.limit_mib:
            found.append(f"{self.growth_mib:.0f} MiB more are held a process")
        return found


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong around the service.

    Attributes:
        name: To ask for it by.
        what: One line for people.
        inject: Does it to a service, and raises AssertionError where anything is not as promised.
    """

    name: str
    what: str
    inject: Callable[[Bench], None]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def traces(log: str, may_log: str = "") -> list[str]:
    """Every trace in a log that it may not have, with what stands around it."""
    around = [log[max(0, one.start() - 300) : one.end() + 2000] for one in _TRACE.finditer(log)]
    return [
        f"a trace in the log: {text}"
        for text in around
        if not may_log or re.search(may_log, text) is None
    ]

"""How single images fare beside a client that sends thousands in each request.

    python benchmarks/fairness.py                              # three rounds, some six minutes
    python benchmarks/fairness.py --model mnist --rounds 5 -- --max-queue-delay-ms 2

Needs Linux and wrk. Starts ``adaresnet serve`` with the arguments behind ``--``. In each round
single images go over 1 and over 8 connections, alone and beside one client that sends requests of
5,000 images one after the other, as an array and as a form; and that client goes alone. The two
sides of a ratio are measured one right after the other. Prints the median over the rounds, and
their spread. The load generators share the machine with the service.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from comparison.bodies import FORM, NPY, RAW, Encoding, Images
from comparison.load import Load, Target, require_wrk, with_wrk
from comparison.machine import busy_cores, describe_machine
from comparison.pictures import draw
from comparison.processes import ServerError
from own_service import MODELS, PATH, OwnService, serving
from PIL import Image

_CONNECTIONS = (1, 8)
_KINDS = {"npy": NPY, "form": FORM}
_PICTURES = 64
_ANSWER_S = 600.0
_GOAL = 3.0
_RAN = "adaresnet_batch_size_sum{"  # images that went through a network, as they do

Figures = dict[str, list[float]]


@dataclass
class LargeClient:
    """A thread that sends one large request after the other."""

    target: Target
    body: bytes
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Send while the context lasts; a request that is under way at its end is dropped."""
        thread = threading.Thread(target=self._send)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            with contextlib.suppress(OSError, AttributeError):
                self._connection.sock.shutdown(2)
            thread.join()
        if self.failures:
            raise ServerError(f"a large request failed: {self.failures[0]}")

    def _send(self) -> None:
        port, headers = self.target.port, {**self.target.headers, "X-Request-Timeout": "600s"}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
        with contextlib.closing(self._connection):
            while not self._stop.is_set():
                try:
                    self._connection.request("POST", self.target.path, self.body, headers)
                    answer = self._connection.getresponse()
                    text = answer.read()
                    if answer.status != 200:
                        self.failures.append(f"status {answer.status}: {text[:200]!r}")
                        return
                except (OSError, http.client.HTTPException) as error:
                    if not self._stop.is_set():
                        self.failures.append(str(error) or type(error).__name__)
                    return


@dataclass(frozen=True)
class Bench:
    """A running service, and what it is sent.

    Attributes:
        service: The one.
        path: With its query.
        single: Bodies of one image.
        large: Body of a large request, by its kind.
        seconds: Of a cell.
    """

    service: OwnService
    path: str
    single: Target
    large: dict[str, bytes]
    seconds: int

    def singles(self, connections: int) -> Load:
        """Single images only, or beside whoever sends already.

        Raises:
            ServerError: One was not answered with 2xx.
        """
        load = with_wrk(self.single, connections, self.seconds)
        if load.bad:
            raise ServerError(f"{load.bad} single requests failed")
        return load

    def large_client(self, kind: str) -> LargeClient:
        """One that does not send yet."""
        target = Target(self.service.port, self.path, _KINDS[kind].headers, ())
        return LargeClient(target, self.large[kind])

    def images_run(self) -> float:
        """Images that went through the network so far, of answered requests or not."""
        return self.service.sum_of(_RAN)


def main() -> int:
    """Measure, and print a table; returns 1 where the goal was missed."""
    args = _parse()
    require_wrk()
    print(f"{describe_machine()}; {busy_cores():.2f} cores busy with something else\n")
    figures: Figures = defaultdict(list)
    with _bench(args) as bench:
        bench.singles(_CONNECTIONS[-1])  # everything is warm after it
        for number in range(args.rounds):
            _round(bench, figures)
            print(f"round {number + 1} of {args.rounds} is done", file=sys.stderr, flush=True)
    return _report(figures)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="model repository")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of a cell")
    parser.add_argument("--images", type=int, default=5000, help="of a large request")
    parser.add_argument("serve", nargs="*", help="arguments of 'adaresnet serve', behind --")
    return parser.parse_args()


@contextlib.contextmanager
def _bench(args: argparse.Namespace) -> Iterator[Bench]:
    with serving(args.models, args.serve) as service:
        pictures = draw(_PICTURES, service.model(args.model)["input"]["height"])
        files = []
        for number, picture in enumerate(pictures):
            files.append(service.folder / f"{number}.jpg")
            files[-1].write_bytes(picture)
        large = {kind: _body(encoding, pictures, args.images) for kind, encoding in _KINDS.items()}
        path = f"{PATH}?model={args.model}&top_k=1"
        single = Target(service.port, path, RAW.headers, tuple(files))
        yield Bench(service, path, single, large, args.seconds)


def _body(encoding: Encoding, pictures: list[bytes], count: int) -> bytes:
    chosen = [number % len(pictures) for number in range(count)]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in pictures])
    return encoding.encode(Images(tuple(pictures[i] for i in chosen), decoded[chosen]))


def _round(bench: Bench, figures: Figures) -> None:
    for kind in _KINDS:
        with bench.large_client(kind).running():
            figures[f"{kind} alone"].append(_rate(bench, lambda: time.sleep(bench.seconds)))
        for connections in _CONNECTIONS:
            alone = bench.singles(connections)
            figures[f"singles {connections} rate"].append(alone.requests / alone.duration_s)
            with bench.large_client(kind).running():
                time.sleep(0.5)  # until the large request's first images run
                loads: list[Load] = []

                def add(connections: int = connections, loads: list[Load] = loads) -> int:
                    loads.append(bench.singles(connections))
                    return loads[0].requests

                rate = _rate(bench, add)
            beside = loads[0]
            name = f"{kind} {connections}"
            figures[f"{name} images"].append(rate)
            figures[f"{name} rate"].append(beside.requests / beside.duration_s)
            for label, load in (("alone", alone), ("beside", beside)):
                assert load.p50_ms is not None
                assert load.p99_ms is not None
                figures[f"{name} {label} p50"].append(load.p50_ms)
                figures[f"{name} {label} p99"].append(load.p99_ms)
            ratio = figures[f"{name} beside p99"][-1] / figures[f"{name} alone p99"][-1]
            figures[f"{name} ratio"].append(ratio)


def _rate(bench: Bench, while_doing: Callable[[], int | None]) -> float:
    """Images/s of large requests meanwhile; ``while_doing`` says how many others there were."""
    before, started = bench.images_run(), time.perf_counter()
    others = while_doing() or 0
    return (bench.images_run() - before - others) / (time.perf_counter() - started)


def _report(figures: Figures) -> int:
    print(
        "| singles on | beside | p50 alone | p50 beside | p99 alone | p99 beside | ratio of p99 |"
        " singles/s alone | beside | large images/s alone | beside |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    worst = 0.0
    for connections in _CONNECTIONS:
        for kind in _KINDS:
            name = f"{kind} {connections}"
            ratios = figures[f"{name} ratio"]
            worst = max(worst, statistics.median(ratios))
            cells = [
                *(f"{connections}", kind),
                *(
                    f"{statistics.median(figures[f'{name} {side} {p}']):.2f} ms"
                    for p in ("p50", "p99")
                    for side in ("alone", "beside")
                ),
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{statistics.median(figures[f'singles {connections} rate']):.0f}",
                f"{statistics.median(figures[f'{name} rate']):.0f}",
                f"{statistics.median(figures[f'{kind} alone']):.0f}",
                f"{statistics.median(figures[f'{name} images']):.0f}",
            ]
            print(f"| {' | '.join(cells)} |")
    reached = worst <= _GOAL
    print(f"\nGoal: a ratio of p99 of at most {_GOAL:g}: {'reached' if reached else 'missed'}.")
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())

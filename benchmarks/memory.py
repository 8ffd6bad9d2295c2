"""What the service takes of memory and of time to start, and whether it keeps what it takes.

    python benchmarks/memory.py                                # all of it, some ten minutes
    python benchmarks/memory.py --only swaps --swaps 50
    python benchmarks/memory.py --only idle,requests -- --workers 2

Needs Linux. Starts ``adaresnet serve`` anew for each part, with the arguments behind ``--``. Parts:

    idle       resident memory once every model is ready and one request was answered
    requests   the same while single images are classified: flat over the last half?
    swaps      the same over live swaps of a version under light load, with no failed request
    stream     the most that one streamed request of 100,000 images takes beyond that
    start      seconds from the start of the process to the first 200 of /readyz

Memory is that of the service and its children, as the kernel counts it (RSS).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import itertools
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from comparison.machine import busy_cores, describe_machine
from comparison.pictures import draw
from comparison.processes import ServerError, descendants, scratch_folder
from own_service import MODELS, PATH, OwnService, memory_of, serving, wait_until

_MIB = 2**20
_ANSWER_S = 3600.0
_IDLE_GOAL_MIB, _FLAT_GOAL, _SWAP_GOAL, _START_GOAL_S = 150.0, 3.0, 5.0, 1.5
_SAMPLES = 200  # of memory, over all single requests
_WARM_UP_SWAPS = 20
_LOADS = "adaresnet_model_loads_total{"
_BLOCK_IMAGES = 256
_BOUNDARY = "adaresnet-memory-boundary"


@dataclass
class Row:
    """One line of the table."""

    what: str
    value: str
    goal: str = ""
    reached: bool | None = None

    def write(self) -> str:
        """As Markdown."""
        verdict = {None: "", True: "yes", False: "no"}[self.reached]
        return f"| {self.what} | {self.value} | {self.goal} | {verdict} |"


@dataclass(frozen=True)
class Subject:
    """A running service, its memory, and what it is asked.

    Attributes:
        service: The one.
        model: Name of the model that is asked.
        picture: One that it takes.
    """

    service: OwnService
    model: str
    picture: bytes

    def rss_bytes(self) -> int:
        """Resident memory of the service and its children, now."""
        return sum(memory_of(pid, "VmRSS") for pid in self._pids())

    def settled_bytes(self, seconds: float = 1.0) -> int:
        """The least resident memory of a moment: a child that tries model files comes and goes."""
        until, least = time.monotonic() + seconds, self.rss_bytes()
        while time.monotonic() < until:
            time.sleep(0.02)
            least = min(least, self.rss_bytes())
        return least

    def begin_peak(self) -> None:
        """Forget the largest resident memory so far."""
        for pid in self._pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The largest resident memory since ``begin_peak``, of each process on its own."""
        return sum(memory_of(pid, "VmHWM") for pid in self._pids())

    def classify(self, connection: http.client.HTTPConnection) -> None:
        """Send one picture.

        Raises:
            ServerError: The answer is not 200.
        """
        connection.request("POST", f"{PATH}?model={self.model}", self.picture)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise ServerError(f"status {answer.status}: {text[:300]!r}")

    def versions(self) -> tuple[int | None, list[int]]:
        """The version that answers, and all that there are."""
        found = self.service.model(self.model)
        return found.get("default_version"), [each["version"] for each in found["versions"]]

    def _pids(self) -> list[int]:
        return [self.service.pid, *descendants(self.service.pid)]


@dataclass
class Load:
    """Threads that send one picture after the other."""

    subject: Subject
    connections: int
    pause_s: float = 0.0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        """Send while the context lasts."""
        threads = [threading.Thread(target=self._send) for _ in range(self.connections)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _send(self) -> None:
        with contextlib.closing(self.subject.service.connect()) as connection:
            while not self._stop.is_set():
                try:
                    self.subject.classify(connection)
                except (ServerError, OSError, http.client.HTTPException) as error:
                    self.failures.append(str(error) or type(error).__name__)
                    connection.close()
                with self._lock:
                    self.answered += 1
                if self.pause_s:
                    self._stop.wait(self.pause_s)


def main() -> int:
    """Measure, and print a table; returns 1 where a goal was missed."""
    args = _parse()
    parts: dict[str, Callable[[argparse.Namespace], Iterable[Row]]] = {
        "idle": _idle,
        "requests": _requests,
        "swaps": _swaps,
        "stream": _stream,
        "start": _start,
    }
    unknown = set(args.only) - parts.keys()
    if unknown:
        raise SystemExit(f"--only: there are {', '.join(parts)}")
    print(f"{describe_machine()}; {busy_cores():.2f} cores busy with something else\n")
    print("| what | measured | goal | reached |\n| --- | --- | --- | --- |", flush=True)
    rows = []
    for name, part in parts.items():
        if not args.only or name in args.only:
            for row in part(args):
                rows.append(row)
                print(row.write(), flush=True)
    return int(any(row.reached is False for row in rows))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="model repository")
    parser.add_argument("--model", default="cifar10", help="the one that is asked and swapped")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[])
    parser.add_argument("--requests", type=int, default=100_000, help="single images")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--stream-images", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("serve", nargs="*", help="arguments of 'adaresnet serve', behind --")
    return parser.parse_args()


def _idle(args: argparse.Namespace) -> Iterator[Row]:
    with _asking(args) as subject:
        with contextlib.closing(subject.service.connect()) as connection:
            subject.classify(connection)
        idle_mib = subject.settled_bytes() / _MIB
        anonymous_mib = memory_of(subject.service.pid, "RssAnon") / _MIB
    yield Row(
        "idle, models loaded",
        f"{idle_mib:.0f} MiB, {anonymous_mib:.0f} of it not backed by files",
        f"<= {_IDLE_GOAL_MIB:.0f} MiB",
        idle_mib <= _IDLE_GOAL_MIB,
    )


def _requests(args: argparse.Namespace) -> Iterator[Row]:
    """Sample memory while single images are classified, and see whether it grows."""
    step = max(1, args.requests // _SAMPLES)
    samples: list[tuple[int, int]] = []
    with _asking(args) as subject:
        before_mib = subject.settled_bytes() / _MIB
        with Load(subject, args.connections).running() as load:
            while load.answered < args.requests and not load.failures:
                if load.answered >= len(samples) * step:
                    samples.append((load.answered, subject.rss_bytes()))
                time.sleep(0.002)
        after_mib = subject.settled_bytes() / _MIB
    if load.failures:
        raise SystemExit(f"a request failed: {load.failures[0]}")
    drift, deviation = _flatness(samples[len(samples) // 2 :])
    yield Row(
        f"{load.answered} single requests",
        f"{before_mib:.1f} to {after_mib:.1f} MiB; over the last half a fitted line changes by"
        f" {drift:+.2f} %, a sample is off the mean by at most {deviation:.2f} %",
        f"within {_FLAT_GOAL:.0f} %",
        abs(drift) <= _FLAT_GOAL and deviation <= _FLAT_GOAL,
    )


def _flatness(samples: list[tuple[int, int]]) -> tuple[float, float]:
    """How flat sizes are: per cent of the mean.

    Returns:
        By how much a fitted line changes from end to end, and the largest distance of a sample
        from the mean.
    """
    at, size = np.array(samples, np.float64).T
    slope = np.polyfit(at, size, 1)[0] if len(samples) > 1 else 0.0
    mean = size.mean()
    drift = float(slope * (at[-1] - at[0]) / mean)
    return 100 * drift, 100 * float(np.abs(size - mean).max() / mean)


def _swaps(args: argparse.Namespace) -> Iterator[Row]:
    for what, swap in (
        ("new versions, the old removed", _publish_next),
        ("one version replaced", _replace),
    ):
        with scratch_folder() as folder:
            models = folder / "models"
            shutil.copytree(args.models, models)
            yield _swap_many(args, models, what, swap)


def _swap_many(
    args: argparse.Namespace, models: Path, what: str, swap: Callable[[Subject], None]
) -> Row:
    warm_up = min(_WARM_UP_SWAPS, args.swaps // 2)
    with (
        _asking(args, models, "--repository-poll-s", "0.05") as subject,
        Load(subject, connections=2, pause_s=0.01).running() as load,
    ):
        for _ in range(warm_up):
            swap(subject)
        before = subject.settled_bytes()
        started = time.perf_counter()
        for _ in range(args.swaps):
            swap(subject)
        seconds = (time.perf_counter() - started) / args.swaps
        after = subject.settled_bytes()
    growth = 100 * (after / before - 1)
    failed = f"{len(load.failures)} of {load.answered} requests failed"
    if load.failures:
        failed += f" ({load.failures[0]})"
    return Row(
        f"{args.swaps} live swaps: {what}",
        f"{before / _MIB:.1f} MiB after {warm_up} swaps, {after / _MIB:.1f} at the end:"
        f" {growth:+.1f} %; {failed}; {seconds:.2f} s a swap",
        f"<= {_SWAP_GOAL:.0f} %, none failed",
        growth <= _SWAP_GOAL and not load.failures,
    )


def _publish_next(subject: Subject) -> None:
    """Let a higher version appear, and remove the one before once it answers."""
    folder = subject.service.models / subject.model
    now = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    shutil.copytree(folder / str(now), folder / "next")
    (folder / "next").rename(folder / str(now + 1))
    wait_until(lambda: subject.versions()[0] == now + 1, "the new version")
    shutil.rmtree(folder / str(now))
    wait_until(lambda: subject.versions()[1] == [now + 1], "the end of the old version")


def _replace(subject: Subject) -> None:
    """Put a copy in the place of the highest version's file: it counts as changed."""
    found = (subject.service.models / subject.model).glob("*/model.onnx")
    path = max(found, key=lambda each: int(each.parent.name))
    before = subject.service.sum_of(_LOADS)
    partial = path.with_suffix(".part")
    shutil.copyfile(path, partial)
    partial.rename(path)
    wait_until(lambda: subject.service.sum_of(_LOADS) > before, "the changed version")


def _stream(args: argparse.Namespace) -> Iterator[Row]:
    """Send many images in one request, as an array and as a form, and see what it takes."""
    with _asking(args) as subject:
        size = subject.service.model(args.model)["input"]
        shape = (size["height"], size["width"], 3)
        for what, kind, body in (
            ("npy", "application/x-npy", _array(args.stream_images, shape)),
            ("form", f"multipart/form-data; boundary={_BOUNDARY}", _form(args.stream_images, size)),
        ):
            idle_mib = subject.settled_bytes() / _MIB
            subject.begin_peak()
            started = time.perf_counter()
            _send_streamed(subject, kind, body, args.stream_images)
            rate = args.stream_images / (time.perf_counter() - started)
            peak_mib, after_mib = subject.peak_bytes() / _MIB, subject.settled_bytes() / _MIB
            yield Row(
                f"{args.stream_images} images in one request, {what}, chunked",
                f"at most {peak_mib - idle_mib:.0f} MiB beyond {idle_mib:.0f},"
                f" {after_mib - idle_mib:.0f} afterwards; {rate:.0f} images/s",
            )


def _array(count: int, shape: tuple[int, ...]) -> Iterator[bytes]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    )
    yield header.getvalue()
    block = np.random.default_rng(0).integers(0, 256, (_BLOCK_IMAGES, *shape), np.uint8)
    for start in range(0, count, _BLOCK_IMAGES):
        yield block[: count - start].tobytes()


def _form(count: int, size: dict[str, int]) -> Iterator[bytes]:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    parts = [head.encode() + picture + b"\r\n" for picture in draw(64, size["height"])]
    endless = itertools.cycle(parts)
    for start in range(0, count, _BLOCK_IMAGES):
        yield b"".join(itertools.islice(endless, min(_BLOCK_IMAGES, count - start)))
    yield f"--{_BOUNDARY}--\r\n".encode()


def _send_streamed(subject: Subject, kind: str, body: Iterator[bytes], count: int) -> None:
    headers = {"Content-Type": kind, "X-Request-Timeout": f"{_ANSWER_S:.0f}"}
    path = f"{PATH}?model={subject.model}&top_k=1"
    with contextlib.closing(subject.service.connect(_ANSWER_S)) as connection:
        connection.request("POST", path, body, headers, encode_chunked=True)
        answer = connection.getresponse()
        text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"status {answer.status}: {text[:300]!r}")
    if len(json.loads(text)["results"]) != count:
        raise SystemExit("the answer has another number of images")


def _start(args: argparse.Namespace) -> Iterator[Row]:
    seconds = []
    for _ in range(args.starts):
        started = time.perf_counter()
        with serving(args.models, args.serve):
            seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    yield Row(
        f"start to ready, median of {args.starts}",
        f"{median:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})",
        f"<= {_START_GOAL_S} s",
        median <= _START_GOAL_S,
    )


@contextlib.contextmanager
def _asking(args: argparse.Namespace, models: Path | None = None, *more: str) -> Iterator[Subject]:
    with serving(models or args.models, [*more, *args.serve]) as service:
        px = service.model(args.model)["input"]["height"]
        yield Subject(service, args.model, draw(1, px)[0])


if __name__ == "__main__":
    sys.exit(main())

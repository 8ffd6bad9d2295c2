"""Classify files with the models here: the serving engine, without HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future

from anyio.from_thread import start_blocking_portal

from service.api.answers import write_answer
from service.client.calls import failed, read_results
from service.client.groups import group, in_order
from service.client.images import Entry, ImageLike
from service.client.results import Result
from service.engine.lanes import Lanes
from service.engine.predictor import EngineOptions, Predictor
from service.engine.repository import ReadyVersion

_GROUP_IMAGES = 128
# One that is decoded and run, one whose files are being read.
_IN_FLIGHT = 3
_RUN_S = 10.0


def classify_here(
    options: EngineOptions,
    find: Callable[[Predictor], ReadyVersion],
    images: Iterable[ImageLike],
    top_k: int,
) -> Generator[Result, None, None]:
    """Classify any number of images, in bounded memory.

    Args:
        options: Of the engine.
        find: Takes the model out of the engine's repository.
        images: Paths, or bytes of files.
        top_k: Classes an image.

    Returns:
        One result an image, in order. Iterating raises ServiceError where the engine fails.
    """
    predictor = Predictor(options)
    try:
        predictor.repository.refresh()
        model = find(predictor)

        async def predict(entries: list[Entry]) -> Sequence[Result]:
            return await _predict(predictor, model, entries, top_k)

        with start_blocking_portal() as portal:

            def begin(entries: list[Entry]) -> Future[Sequence[Result]]:
                return portal.start_task_soon(predict, entries)

            yield from in_order(group(images, _GROUP_IMAGES), begin, _IN_FLIGHT)
    finally:
        predictor.close()
        _let_runs_end(predictor.lanes)


def _let_runs_end(lanes: Lanes) -> None:
    """Wait for what runs: the interpreter's end aborts the process while a thread is in a run."""
    until_s = time.monotonic() + _RUN_S
    while len(lanes.idle) < lanes.count and time.monotonic() < until_s:
        time.sleep(0.002)


async def _predict(
    predictor: Predictor, model: ReadyVersion, entries: list[Entry], top_k: int
) -> Sequence[Result]:
    good = [entry for entry in entries if isinstance(entry.content, bytes)]
    answered: dict[int, Result] = {}
    if good:
        files = [entry.content for entry in good if isinstance(entry.content, bytes)]
        outcome = await predictor.predict(model, files, top_k, skip_errors=True)
        # By way of the service's own text: what is said here and there is then the same.
        answered = read_results(json.loads(write_answer(model, outcome)), None, good)
    return [answered.get(entry.index) or failed(entry) for entry in entries]

"""Write answers where that holds nobody up, and count how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool

from service.engine.predictor import Outcome
from service.engine.repository import ReadyVersion

# Writing this many classes takes about a millisecond; more would hold up the event loop.
_WRITE_ON_LOOP = 2_000


async def encode(
    write: Callable[[ReadyVersion, Outcome], bytes], model: ReadyVersion, outcome: Outcome, k: int
) -> bytes:
    """Write the answer for some images; in another thread if it is long.

    Args:
        write: Does it.
        model: That answers.
        outcome: Its results.
        k: Classes an image.
    """
    begun_s = time.perf_counter()
    if outcome.count * k <= _WRITE_ON_LOOP:
        text = write(model, outcome)
    else:
        text = await run_in_threadpool(write, model, outcome)
    model.metrics.encoded(time.perf_counter() - begun_s)
    return text

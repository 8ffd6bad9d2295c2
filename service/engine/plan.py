"""Choose batch sizes by a short measurement on the machine, with the model that will serve.

On a CPU a larger batch gains little once every operator has enough to do, and costs those who wait
for it; on a GPU it gains much. So batches that nobody waits for are as large as pays, and the
others as small as costs hardly anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.batcher import BatchPlan
from service.engine.images import Pixels

MAX_BATCH_SIZE = 64  # tried at most when none is set
_BUDGET_S = 0.08  # for a model; the first two runs may take longer
_REPEATS = 3
# What a run costs besides the network: gathering, handing out, and above all waiting for the
# interpreter's lock twice, which a busy event loop gives away a few times a millisecond at best.
_HANDOVER_S = 150e-6
_BEST, _NEARLY_BEST = 1.02, 1.05
# Equal is no reason to stop: larger batches are handed over less often.
_DEARER = 1.03
_LONG_S = 0.025  # no batch shall take longer, for somebody may come the moment after it began
# Waking the other threads takes some ten microseconds: nothing is won below this.
WORTH_SHARING_S = 2e-4

Timings = Mapping[int, float]


@dataclass(frozen=True)
class PlanOptions:
    """What is settled before anything is measured.

    Attributes:
        max_batch_size: Of every batch; 0: as measured, at most ``MAX_BATCH_SIZE``.
        max_queue_delay_s: How long images may wait for their batch to fill.
    """

    max_batch_size: int = 0
    max_queue_delay_s: float = 0.0


def time_runs(
    run: Callable[[Pixels], object],
    height: int,
    width: int,
    max_batch_size: int,
    *,
    least: int = 1,
    sizes: Sequence[int] | None = None,
    budget_s: float = _BUDGET_S,
) -> Timings:
    """Seconds of a run for batch sizes 1, 2, 4, ..., the fastest of some tries.

    It stops at the cap, when its time is up, or when larger batches have become dearer.

    Args:
        run: Takes uint8 [N, height, width, 3].
        height: Pixels.
        width: Pixels.
        max_batch_size: The cap.
        least: The first size, where a run of fewer costs the same; they are doubled from there.
        sizes: Batch sizes to time instead, ascending, whether they are cheaper or not; on a GPU
            they only cost more once it is full.
        budget_s: A size that has not begun by then is left out; the first is timed in any case.
    """
    until_s = time.perf_counter() + budget_s
    random = np.random.default_rng(0)
    timings: dict[int, float] = {}
    for size in sizes or _doubled(min(least, max_batch_size), max_batch_size):
        # Drawn when their turn comes: with large pictures it rarely does.
        pixels = random.integers(0, 256, (size, height, width, 3), dtype=np.uint8)
        timings[size] = _fastest(run, pixels, until_s)
        if time.perf_counter() > until_s:
            break
        quarter_s = timings.get(size // 4, float("inf"))
        if not sizes and size >= 8 and timings[size] > _DEARER * 4 * quarter_s:
            break
    return timings


def _doubled(size: int, up_to: int) -> Iterator[int]:
    while size <= up_to:
        yield size
        size *= 2


def _fastest(run: Callable[[Pixels], object], images: Pixels, until_s: float) -> float:
    fastest_s = float("inf")
    for _ in range(_REPEATS):
        started_s = time.perf_counter()
        run(images)
        ended_s = time.perf_counter()
        fastest_s = min(fastest_s, ended_s - started_s)
        if ended_s > until_s:
            break
    return fastest_s


def choose_plan(
    narrow: Timings, wide: Timings | None, lanes: int, options: PlanOptions, *, spread: bool
) -> BatchPlan:
    """Cut batches so that hardly anything is lost against the best size measured.

    Args:
        narrow: Seconds of a run in one lane, by batch size.
        wide: The same with the threads of all lanes; None where there is no such session.
        lanes: How many runs there are at once.
        options: What is settled already.
        spread: Idle lanes share what waits.
    """
    cost = {
        size: (seconds + _HANDOVER_S) / size
        for size, seconds in narrow.items()
        if seconds <= _LONG_S or size == min(narrow)
    }
    best = min(cost.values())
    # The largest of equals: what a batch costs besides its run is more under load than alone.
    batch_size = max(size for size in cost if cost[size] <= _BEST * best)
    small = min(size for size in cost if cost[size] <= _NEARLY_BEST * best)
    if options.max_batch_size:
        batch_size = small = options.max_batch_size
    return BatchPlan(
        batch_size,
        small,
        _wide_up_to(narrow, wide or {}, lanes),
        spread,
        options.max_queue_delay_s,
    )


def _wide_up_to(narrow: Timings, wide: Timings, lanes: int) -> int:
    """So many images are answered sooner by all threads together than by a lane each."""
    up_to = 0
    for size in sorted(wide):
        share = -(-size // lanes)
        apart = min((narrow[n] for n in narrow if n >= share), default=float("inf"))
        if wide[size] >= apart:
            break
        up_to = size
    return up_to

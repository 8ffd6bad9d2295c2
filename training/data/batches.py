"""Batches of a split on the device that trains, from memory or decoded ahead of it."""

from __future__ import annotations

import collections
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from training.data.splits import AnySplit, Split, StreamedSplit

AHEAD = 3  # batches, ready or in the making while another one is used
_PIECES_A_WORKER = 2  # so that one slow photo does not keep the others waiting for long


def read_batches(
    split: AnySplit, batches: Sequence[Tensor], device: torch.device, workers: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Yield batches in the order asked for.

    A split in memory is indexed where its pixels are. Of a streamed one at most ``AHEAD`` batches
    are decoded ahead, and the workers stop when the iterator ends, is closed or is let go.

    Args:
        split: Where to read.
        batches: Positions in the split, int64 [B] each, on the CPU.
        device: Where the batches go.
        workers: Threads that decode a streamed split.

    Yields:
        Pixels, uint8 [B, H, W, 3], and labels, int64 [B], both on ``device``.

    Raises:
        DataError: A picture of a streamed split can't be read any more.
    """
    if isinstance(split, Split):
        yield from _indexed(split, batches, device)
    else:
        yield from _decoded(split, batches, device, max(1, workers))


def _indexed(
    split: Split, batches: Sequence[Tensor], device: torch.device
) -> Generator[tuple[Tensor, Tensor], None, None]:
    # Small copies to a GPU that don't wait for it: from such memory they are taken at once.
    for batch in batches:
        here = batch.to(split.pixels.device, non_blocking=True)
        labels = split.labels[here.to(split.labels.device)]
        yield split.pixels[here].to(device), labels.to(device)


def _decoded(
    split: StreamedSplit, batches: Sequence[Tensor], device: torch.device, workers: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    # Threads, not processes: reading, and Pillow's decoding and resizing, which are nearly all of
    # the work, run without the GIL; and nothing is pickled, copied or started anew every epoch.
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: collections.deque[list[Future[Tensor]]] = collections.deque()
    pinned = device.type == "cuda"

    def submit(batch: Tensor) -> None:
        pieces = torch.tensor_split(batch, min(len(batch), workers * _PIECES_A_WORKER) or 1)
        waiting.append([pool.submit(split.decode, piece.tolist()) for piece in pieces])

    try:
        for batch in batches[:AHEAD]:
            submit(batch)
        for position, batch in enumerate(batches):
            pixels = torch.cat([piece.result() for piece in waiting.popleft()])
            labels = split.labels[batch]
            if position + AHEAD < len(batches):
                submit(batches[position + AHEAD])
            if pinned:  # only from pinned memory does the copy run beside the GPU's work
                pixels, labels = pixels.pin_memory(), labels.pin_memory()
            yield pixels.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

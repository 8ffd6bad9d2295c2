"""Random generators that need no saved state: each follows from the seed and a place in the run."""

from __future__ import annotations

import hashlib

import torch


def generator_of(seed: int, *place: int) -> torch.Generator:
    """A generator on the CPU for one place (purpose, epoch, step, process) of a run.

    Seeds of neighbouring places are hashed, because Mersenne Twister starts much alike from seeds
    that are alike.
    """
    text = ",".join(map(str, (seed, *place))).encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
    return torch.Generator().manual_seed(number)

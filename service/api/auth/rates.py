"""How much a caller may ask for a second: token buckets that all workers share.

A bucket is one number, the moment at which it will be full again (the generic cell rate algorithm,
ITU-T I.371): that is read and written in one step each, in memory that was shared before the
workers were forked, so no lock is needed. Two workers that take from one bucket in the same
microsecond may let one request more through.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import time
from dataclasses import dataclass

_PLACES = 4096
_TRIES = 64
_ITEM_BYTES = 8
_TOLERANCE_S = 1e-6  # sums of floating-point numbers are not exact


@dataclass(frozen=True)
class RateLimits:
    """What a caller may use a second; 0: as much as it likes, None: nothing is said."""

    requests_per_s: float | None = None
    images_per_s: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self.requests_per_s or self.images_per_s)

    def or_else(self, others: RateLimits) -> RateLimits:
        """These limits, and the others' where these say nothing."""
        requests, images = self.requests_per_s, self.images_per_s
        return RateLimits(
            others.requests_per_s if requests is None else requests,
            others.images_per_s if images is None else images,
        )


class SharedRates:
    """Buckets by name, in memory that forked processes share."""

    def __init__(self) -> None:
        """Make them, all full; before workers are forked."""
        memory = memoryview(mmap.mmap(-1, 2 * _PLACES * _ITEM_BYTES))
        middle = _PLACES * _ITEM_BYTES
        self.owners = memory[:middle].cast("Q")
        self.full_at_s = memory[middle:].cast("d")

    def place(self, owner: int) -> int:
        """Where an owner's bucket is; of many owners the one that is idle longest loses its."""
        start = owner % _PLACES
        places = [(start + step) % _PLACES for step in range(_TRIES)]
        for place in places:
            if self.owners[place] in (owner, 0):
                break
        else:
            place = min(places, key=self.full_at_s.__getitem__)
        if self.owners[place] != owner:
            self.full_at_s[place] = 0.0
            self.owners[place] = owner
        return place


class Bucket:
    """Refills at a rate; holds what comes in a second, and one at least.

    Attributes:
        policy: The member of ``RateLimit-Policy`` that describes it
            (draft-ietf-httpapi-ratelimit-headers).
    """

    def __init__(self, rates: SharedRates, name: str, unit: str, per_s: float) -> None:
        """Find it among the others.

        Args:
            rates: Where all are.
            name: Whose it is.
            unit: What is counted: requests or images.
            per_s: The rate, more than 0.
        """
        digest = hashlib.sha256(f"{unit} {name}".encode()).digest()
        self._owner = int.from_bytes(digest[:_ITEM_BYTES], "little") | 1  # 0 is nobody
        self._rates = rates
        self._place = rates.place(self._owner)
        self._unit = unit
        self._per_s = per_s
        self._window_s = max(1, math.ceil(1 / per_s))
        unit_parameter = "" if unit == "requests" else f';qu="{unit}"'
        quota = max(1, math.floor(per_s * self._window_s))
        self.policy = f'"{unit}";q={quota};w={self._window_s}{unit_parameter}'

    def wait_s(self, now_s: float) -> float:
        """Seconds until one more may be taken; 0 where it may be now."""
        wait_s = self._used_s(now_s) + 1 / self._per_s - self._window_s
        return wait_s if wait_s > _TOLERANCE_S else 0.0

    def take(self, count: float, now_s: float) -> None:
        """Take so many, even if there are less: what is owed comes off what comes next."""
        full_at_s = now_s + self._used_s(now_s) + count / self._per_s
        self._rates.full_at_s[self._place] = full_at_s

    def state(self, now_s: float) -> str:
        """The member of ``RateLimit`` that says what is left."""
        used_s = self._used_s(now_s)
        left = max(0, math.floor((self._window_s - used_s) * self._per_s + 1e-6))
        return f'"{self._unit}";r={left};t={math.ceil(used_s)}'

    def _used_s(self, now_s: float) -> float:
        """How far it is from full, in seconds that it takes to refill."""
        rates = self._rates
        if rates.owners[self._place] != self._owner:
            self._place = rates.place(self._owner)
        return max(0.0, rates.full_at_s[self._place] - now_s)


class Meter:
    """The buckets of one caller."""

    def __init__(self, rates: SharedRates, name: str, limits: RateLimits) -> None:
        """Find them; ``limits`` has at least one."""
        self._requests = self._images = None
        if limits.requests_per_s:
            self._requests = Bucket(rates, name, "requests", limits.requests_per_s)
        if limits.images_per_s:
            self._images = Bucket(rates, name, "images", limits.images_per_s)
        self._buckets = [bucket for bucket in (self._requests, self._images) if bucket]
        policy = ", ".join(bucket.policy for bucket in self._buckets)
        self._policy_header = (b"ratelimit-policy", policy.encode())

    @property
    def counts_images(self) -> bool:
        """Whether somebody has to say how many images there were."""
        return self._images is not None

    def begin(self) -> tuple[str, int] | None:
        """Take a request.

        Returns:
            None; or what is used up, and the whole seconds until it makes sense to try again.
        """
        now_s = time.monotonic()
        for unit, bucket in (("requests", self._requests), ("images", self._images)):
            if bucket is not None and (wait_s := bucket.wait_s(now_s)) > 0:
                return unit, max(1, math.ceil(wait_s))
        if self._requests is not None:
            self._requests.take(1, now_s)
        return None

    def add_images(self, count: int) -> None:
        """Images of a request are known only when it has been read: they are paid afterwards."""
        if self._images is not None and count:
            self._images.take(count, time.monotonic())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """``RateLimit-Policy`` and, as of now, ``RateLimit``."""
        now_s = time.monotonic()
        state = ", ".join(bucket.state(now_s) for bucket in self._buckets)
        return [self._policy_header, (b"ratelimit", state.encode())]

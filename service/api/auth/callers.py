"""A caller: a name, what it may do, and how much of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from service.api.auth.rates import Meter, RateLimits, SharedRates

Scope = Literal["predict", "manage"]
PREDICT: Scope = "predict"
MANAGE: Scope = "manage"
SCOPES = (PREDICT, MANAGE)


@dataclass(frozen=True)
class Caller:
    """Who sends a request.

    Attributes:
        name: Of the key, or of the token's subject; fit for a line of a log.
        scopes: Of ``SCOPES``.
        meter: Counts what it has used; None where it may have all.
    """

    name: str
    scopes: frozenset[str]
    meter: Meter | None


@dataclass(frozen=True)
class Callers:
    """Makes callers of names, scopes and limits."""

    limits: RateLimits
    rates: SharedRates

    def make(
        self,
        name: str,
        scopes: Collection[str],
        *,
        limits: RateLimits | None = None,
        counted_as: str = "",
    ) -> Caller:
        """A caller with limits of its own, or those that all have.

        Args:
            name: As of ``Caller``.
            scopes: As of ``Caller``.
            limits: None in a field means what all have.
            counted_as: Tells its counts from those of others; ``name`` where it is empty.
        """
        own = self.limits if limits is None else limits.or_else(self.limits)
        meter = Meter(self.rates, counted_as or name, own) if own.any else None
        return Caller(name, frozenset(scopes), meter)

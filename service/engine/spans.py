"""What the engine says about a request that is traced; who listens is not its business.

Times are of ``time.perf_counter``, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Run:
    """A batch that has run.

    Attributes:
        model: Name of the model.
        version: Its version.
        size: Images.
        taken_s: When it was formed.
        began_s: When its run began.
        ended_s: When its run ended.
        error: Code of what went wrong; None: nothing.
    """

    model: str
    version: str
    size: int
    taken_s: float
    began_s: float
    ended_s: float
    error: str | None


class Spans(Protocol):
    """Listens to what becomes of one request. Called on the event loop."""

    def decoded(self, began_s: float, ended_s: float, images: int) -> None:
        """Some of its images were decoded."""

    def batch(self, run: Run, together: Sequence[Spans]) -> object:
        """It was the first of these requests, all of them traced, that shared a run.

        Returns:
            What stands for that batch in ``ran``.
        """

    def ran(self, run: Run, queued_s: float, batch: object) -> None:
        """Some of its images, which were queued at ``queued_s``, have run in a batch."""


# Those of the request that runs in this context; None: it is not traced.
SPANS: ContextVar[Spans | None] = ContextVar("spans", default=None)

"""An event loop whose timers keep their time."""

from __future__ import annotations

import asyncio
import select
import selectors
import sys

if sys.platform == "linux":

    class _Precise(selectors.EpollSelector):
        """Waits to the microsecond; epoll alone rounds up to the next millisecond.

        A request that is sent a millisecond late looks like an answer that took one longer.
        """

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)

    def event_loop() -> asyncio.AbstractEventLoop:
        """A new one; uvloop's timers are rounded to milliseconds, too."""
        return asyncio.SelectorEventLoop(_Precise())

else:

    def event_loop() -> asyncio.AbstractEventLoop:
        """A new one, as exact as the system has it."""
        return asyncio.new_event_loop()

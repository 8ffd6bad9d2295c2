"""JSON documents of thousands of values: read in a thread, one at a time, uncollected."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

_Args = TypeVarTuple("_Args")
_Read = TypeVar("_Read")


def install(app: FastAPI) -> None:
    """Let an app read them."""
    app.state.large_json = asyncio.Lock()


async def read_large(
    request: Request, read: Callable[[Unpack[_Args]], _Read], *args: *_Args
) -> _Read:
    """Call ``read`` with ``args`` in a thread, after all others."""
    # Side by side they would only hold more memory, for Python's lock is held.
    one_at_a_time: asyncio.Lock = request.app.state.large_json
    async with one_at_a_time:
        return await run_in_threadpool(lambda: read_uncollected(read, *args))


def read_uncollected(read: Callable[[Unpack[_Args]], _Read], *args: *_Args) -> _Read:
    """Call ``read`` with ``args`` while the garbage collector is off.

    It would look through a million new lists again and again, which takes nine times as long as
    making them. It is a matter of a moment: one such request is read at a time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        return read(*args)
    finally:
        if was_on:
            gc.enable()

"""Every route of ``/v2``, as an app takes them up."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from service.api.oip import infer, models, repository, server, statistics, unsupported

# So many bodies are inflated at once, or wait to be read: a kilobyte of each can become as much as
# is ever held.
_INFLATIONS = 4


def install(app: FastAPI) -> None:
    """Answer the Open Inference Protocol."""
    # Statistics before models, for which "stats" would be the name of one.
    for routes in (server, statistics, models, infer, repository, unsupported):
        app.include_router(routes.router)
    app.state.inflations = asyncio.Semaphore(_INFLATIONS)

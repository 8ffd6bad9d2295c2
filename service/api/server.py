"""The HTTP server of one process: uvicorn, and how a worker leaves while others go on."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from service.api.connection import Connection

# Longer than the idle timeouts of common clients and proxies, which would else race with ours.
_KEEP_ALIVE_S = 75
_DRAIN_S = 30
# So long a worker that is replaced still answers on connections that are open: to close an idle
# one at once would break the request that is on its way just then.
_LINGER_S = 3.0


class Server(uvicorn.Server):
    """Answers over one listening socket until it is told to stop.

    Attributes:
        leaving: It stops because another process takes over.
    """

    def __init__(self, app: ASGIApp, on_started: Callable[[], None] | None = None) -> None:
        """Serve an app; ``on_started`` is called when connections are accepted."""
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here depends on the client's address
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_DRAIN_S,
            )
        )
        self.leaving = False
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then accept connections."""
        await super().startup(sockets)
        if self._on_started is not None:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, answer what is under way, end."""
        if self.leaving:
            for server in self.servers:
                server.close()
            until_s = time.monotonic() + _LINGER_S
            while self.server_state.connections and time.monotonic() < until_s:
                for connection in list(self.server_state.connections):
                    _last_answer(connection)
                await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _last_answer(connection: Any) -> None:
    assert isinstance(connection, Connection)
    connection.leave()

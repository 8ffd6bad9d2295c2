"""The HTTP server of one process: uvicorn, and how a worker leaves while others go on."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from service.api.connection import Connection
from service.workers import Seat

# Longer than the idle timeouts of common clients and proxies, which would else race with ours.
_KEEP_ALIVE_S = 75
_DRAIN_S = 30
# So long a worker that is replaced still answers on connections that are open: to close an idle
# one at once would break the request that is on its way just then.
_LINGER_S = 3.0


class Server(uvicorn.Server):
    """Answers over one listening socket until it is told to stop."""

    def __init__(self, app: ASGIApp, seat: Seat | None = None) -> None:
        """Serve an app, alone or as a worker."""
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
        self._seat = seat
        self._leaving = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then accept connections."""
        if self._seat is not None:
            self._seat.tie.setblocking(False)
            asyncio.get_running_loop().add_reader(self._seat.tie, self._leave)
        await super().startup(sockets)
        if self._seat is not None:
            self._seat.report_serving()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, answer what is under way, end."""
        if self._leaving:
            for server in self.servers:
                server.close()
            until_s = time.monotonic() + _LINGER_S
            while self.server_state.connections and time.monotonic() < until_s:
                for connection in self._connections():
                    connection.leave()
                await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """What is done ten times a second."""
        for connection in self._connections():
            connection.look_for_hang_up()
        return await super().on_tick(counter)

    def _connections(self) -> list[Connection]:
        return cast(list[Connection], list(self.server_state.connections))

    def _leave(self) -> None:
        """Another worker takes over, or the parent is dead."""
        assert self._seat is not None
        asyncio.get_running_loop().remove_reader(self._seat.tie)
        self._leaving = self.should_exit = True

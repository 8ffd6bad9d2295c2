"""The HTTP server of one process: uvicorn, and how a worker leaves while others go on."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import cast

import uvicorn

from service.api.connection import LOOK_EVERY_S, Connection
from service.api.crowd import Crowd, connection_limits
from service.api.front import Front
from service.api.handshake import EncryptedServer
from service.api.listening import has_waiting, take_no_more
from service.api.tls import Certificate
from service.settings import Settings
from service.workers import Seat

# So long a worker that is replaced still answers on connections that are open: to close an idle
# one at once would break the request that is on its way just then.
_LINGER_S = 3.0
_LAST_S = 0.5  # the same in a process that ends: its answer is that it does
_SILENT_S = 2.0
_ACCEPT_S, _NOBODY_CAME_S = 1.0, 0.1
# Signals that come so close together are one: to a process and to the group that it is in.
_SAME_MOMENT_S = 0.1
_GIVE_UP_S = 1.0  # for refusing what was not answered in time
_END_S = 10.0  # a process that still lives so long behind its last answer hangs
_TICKS_A_REPORT = 50  # ticks are a tenth of a second
_TICKS_A_SIGN = 5
_TICKS_A_LOOK = round(10 * LOOK_EVERY_S)
_logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Answers over its listening sockets until it is told to stop."""

    def __init__(
        self,
        app: Front,
        settings: Settings,
        certificate: Certificate | None = None,
        seat: Seat | None = None,
    ) -> None:
        """Serve an app.

        Args:
            app: The service.
            settings: Of connections and drain.
            certificate: None: clients are not encrypted. Operators never are.
            seat: Of a worker; None: this process is alone.
        """
        super().__init__(_config(app, settings))
        self._certificate = certificate
        self._operators_config = _config(app.for_operators(), settings)
        self._limits = connection_limits(settings)
        self._refused = app.metrics.refused
        self._looked_s = 0.0
        self._lifecycle = app.lifecycle
        self._seat = seat
        self._leaving = False
        self._drain_delay_s = settings.drain_delay_s
        self._drain_timeout_s = settings.drain_timeout_s
        self._told_to_stop = self._hurries = False
        self._told_s = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then accept connections.

        Args:
            sockets: For clients; and another one for operators, if they want one.
        """
        loop = asyncio.get_running_loop()
        if self._seat is not None:
            self._seat.tie.setblocking(False)
            loop.add_reader(self._seat.tie, self.leave)
        elif hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
        await super().startup([])  # uvicorn's way of listening knows one app only
        if self._leaving:
            return  # whoever waits to be accepted is left to another worker
        for_clients, *for_operators = sockets or []
        await self._listen(for_clients, self.config, encrypted=self._certificate is not None)
        for listener in for_operators:
            await self._listen(listener, self._operators_config, encrypted=False)
        if self._seat is not None:
            self._seat.report_serving()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, answer what is under way, end."""
        if self._leaving:
            await self._linger(_LINGER_S)
            await self._drain()
        else:
            await self._drain()
            await self._accept_last(sockets or [])
        await self._linger(_LAST_S)  # for whoever had an answer that was too far on to say so
        await self._give_up()
        self._end_for_sure()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """What is done ten times a second."""
        connections = self._connections()
        for connection in connections:
            connection.look_for_hang_up()
        if not counter % _TICKS_A_LOOK:
            # While we were late ourselves, nobody else was slow.
            passed_s = min(time.monotonic() - self._looked_s, 2 * LOOK_EVERY_S)
            self._looked_s = time.monotonic()
            for connection in connections:
                connection.look_for_slowness(passed_s)
        if self._seat is not None and not counter % _TICKS_A_SIGN:
            self._seat.report_alive()
        ailment = self._lifecycle.ailment
        if self._seat is not None and ailment is not None and not counter % _TICKS_A_REPORT:
            self._seat.report_sick(ailment)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal. Who asks twice, or from a keyboard, doesn't want to wait."""
        ready = self._lifecycle.obstacle is None
        if self._told_to_stop or sig != signal.SIGTERM or not ready:
            self._drain_delay_s = 0.0
        now_s = time.monotonic()
        if not self._told_to_stop:
            self._told_s = now_s
        elif now_s - self._told_s > _SAME_MOMENT_S and (
            self._seat is None or sig == signal.SIGINT  # by which a parent hands it on
        ):
            self._hurries = True
        self._told_to_stop = self._lifecycle.stopping = self.should_exit = True

    async def _accept_last(self, listeners: list[socket.socket]) -> None:
        """Take over what the kernel has accepted: it would be reset with its listening socket."""
        for listener in listeners:
            take_no_more(listener)
        came_s = began_s = time.monotonic()
        while time.monotonic() < min(came_s + _NOBODY_CAME_S, began_s + _ACCEPT_S):
            waiting = any(map(has_waiting, listeners))
            if waiting:
                came_s = time.monotonic()
            await asyncio.sleep(0 if waiting else 0.001)  # one is accepted each time round

    async def _linger(self, seconds: float) -> None:
        """Accept no more, but answer on connections that are open."""
        for server in self.servers:
            server.close()
        began_s = time.monotonic()
        while connections := self._connections():
            # Who has not asked anything yet has perhaps just come in order to.
            silent = any(connection.cycle is None for connection in connections)
            if time.monotonic() - began_s > (max(seconds, _SILENT_S) if silent else seconds):
                break
            for connection in connections:
                connection.leave()
            await asyncio.sleep(0.05)

    async def _drain(self) -> None:
        """Go on until others know that this process stops, then finish what it has.

        The listening socket stays open meanwhile, so that whoever asks whether it is ready gets an
        answer; what comes after the delay is refused.
        """
        self._lifecycle.stopping = True
        began_s, ticks = time.monotonic(), 0
        while not self._hurries:
            delayed_s = time.monotonic() - began_s
            if not self._leaving:
                delayed_s -= self._drain_delay_s
            self._lifecycle.refusing = delayed_s >= 0 and not self._leaving
            done = not self.server_state.tasks or delayed_s >= self._drain_timeout_s
            if delayed_s >= 0 and done:
                break
            ticks += 1
            await self.on_tick(ticks)
            await asyncio.sleep(0.1)
        self._lifecycle.refusing = not self._leaving

    async def _give_up(self) -> None:
        """Refuse what is not answered although its time is over, or somebody is in a hurry."""
        tasks = list(self.server_state.tasks)
        if tasks:
            _logger.error(
                "%d requests are given up unanswered: %s",
                len(tasks),
                "a second signal came"
                if self._hurries
                else f"drain_timeout_s, {self._drain_timeout_s:g} s, is over",
            )
            for connection in self._connections():
                connection.give_up()
            await asyncio.wait(tasks, timeout=_GIVE_UP_S)

    def _end_for_sure(self) -> None:
        """A thread that never ends, in a library say, must not keep the process."""

        def end() -> None:
            _logger.error("a thread hangs, %g s behind the last answer: ending without it", _END_S)
            logging.shutdown()
            os._exit(1)

        timer = threading.Timer(_END_S, end)
        timer.daemon = True
        timer.start()

    async def _listen(
        self, listener: socket.socket, config: uvicorn.Config, *, encrypted: bool
    ) -> None:
        # Of each port: operators find room however many clients come.
        crowd = Crowd(self._limits, self._refused)
        connection = functools.partial(
            Connection,
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            crowd=crowd,
        )
        if self._certificate is not None and encrypted:
            encrypting = EncryptedServer(listener, self._certificate.context, crowd, connection)
            self.servers.append(cast(asyncio.Server, encrypting))
            return
        server = await asyncio.get_running_loop().create_server(
            connection, sock=listener, backlog=config.backlog
        )
        self.servers.append(server)

    def _connections(self) -> list[Connection]:
        return cast(list[Connection], list(self.server_state.connections))

    def _on_hang_up(self) -> None:
        if self._certificate is not None:
            self._certificate.reload()
        else:
            _logger.info("SIGHUP: only workers are replaced without a gap, and there are none")

    def leave(self) -> None:
        """End, and leave the sockets as they are: others take over, or the parent is dead."""
        assert self._seat is not None
        asyncio.get_running_loop().remove_reader(self._seat.tie)
        self._leaving = self.should_exit = True


def _config(app: Front, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # any number will do
        timeout_graceful_shutdown=1,  # there is nothing left by then, see Server
    )

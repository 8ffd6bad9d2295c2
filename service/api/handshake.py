"""Connections that are to be encrypted, from the moment that they are accepted.

asyncio tells of such a connection when its handshake is over. Whoever opens thousands and says
nothing would take every open file until then; so here they are of the crowd from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from service.api.crowd import Crowd

# Where the system has no files left, looking again at once would only take its time.
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LOOK_AGAIN_S = 1.0
_logger = logging.getLogger(__name__)


class EncryptedServer:
    """Accepts connections and begins to encrypt them; ends like an ``asyncio.Server``."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        crowd: Crowd,
        connection: Callable[..., asyncio.Protocol],
    ) -> None:
        """Listen; on the event loop.

        Args:
            listener: Bound; it is closed with this.
            context: With the certificate.
            crowd: Of the port.
            connection: Makes what talks to a client; takes ``begun``, to call when it begins.
        """
        self._listener = listener
        self._context = context
        self._crowd = crowd
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        listener.listen(socket.SOMAXCONN)
        self._look()

    def close(self) -> None:
        """Accept no more; handshakes that have begun go on."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    async def wait_closed(self) -> None:
        """Give up the handshakes that are not over."""
        for handshake in self._handshakes:
            handshake.cancel()

    def _look(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _FULL:
                _logger.error("can't accept connections: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_LOOK_AGAIN_S, self._look)
            return  # another process was faster, or the client has gone
        if not self._crowd.admit():
            self._crowd.turn_away()
            self._crowd.lose(turned_away=True)
            client.close()  # nothing can be said yet
            return
        client.setblocking(False)
        handshake = _Handshake(self._crowd)
        handshake.task = self._loop.create_task(self._shake(client, handshake))
        self._handshakes.add(handshake.task)
        handshake.task.add_done_callback(self._handshakes.discard)
        # Not in the task: one that is cancelled before it begins does nothing at all.
        handshake.task.add_done_callback(lambda _: handshake.leave())

    async def _shake(self, client: socket.socket, handshake: _Handshake) -> None:
        # Who doesn't speak TLS, or too slowly, can't be told anything.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._loop.connect_accepted_socket(
                lambda: self._connection(begun=handshake.leave),
                client,
                ssl=self._context,
                ssl_handshake_timeout=self._crowd.limits.head_timeout_s,
            )


class _Handshake:
    """The place in a crowd of a client that has not shown yet that it speaks TLS."""

    task: asyncio.Task[None]

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._stays = True
        crowd.silent[self] = None

    def make_room(self) -> None:
        """Close."""
        self.task.cancel()

    def leave(self) -> None:
        """Give the place up, to the connection or for good."""
        if self._stays:
            self._stays = False
            self._crowd.silent.pop(self, None)
            self._crowd.lose(turned_away=False)

"""A TCP proxy that fails as it is told, connection by connection, before a real server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

Fault = Callable[[socket.socket], None]


def cut(client: socket.socket) -> None:
    """End the connection without a word."""


def swallow(client: socket.socket) -> None:
    """Read some of the request and break the connection."""
    client.recv(100)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def silence(client: socket.socket) -> None:
    """Read, and never answer, until the client gives up."""
    client.settimeout(30)
    while client.recv(65536):
        pass


def trickle(client: socket.socket) -> None:
    """Begin an answer, and never end it: every single wait for more of it is short."""
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(300):
        client.sendall(b" ")
        time.sleep(0.1)


def answer(status: str, *headers: str, body: str = "") -> Fault:
    """Read the request, and answer this."""

    def fault(client: socket.socket) -> None:
        read_request(client)
        head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers))
        client.sendall(f"{head}\r\nConnection: close\r\n\r\n{body}".encode())

    return fault


def read_request(client: socket.socket) -> bytes:
    """Head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
    while left > 0:
        left -= len(client.recv(65536))
    return head


class Proxy:
    """Fails the first connections with the given faults, and hands all others on.

    Attributes:
        url: Where it listens.
        faults: Those still to come, in order.
        connections: How many there were.
        heads: Of the requests that were handed on; the first of each connection.
    """

    def __init__(self, url: str) -> None:
        """Listen."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = parts.hostname, parts.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.faults: list[Fault] = []
        self.connections = 0
        self.heads: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            fault = self.faults.pop(0) if self.faults else self._hand_on
            threading.Thread(target=_with, args=(client, fault), daemon=True).start()

    def _hand_on(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            first = client.recv(65536)
            self.heads.append(first.partition(b"\r\n\r\n")[0])
            server.sendall(first)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(30)


def _with(client: socket.socket, fault: Fault) -> None:
    with client, contextlib.suppress(OSError):
        fault(client)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def flaky(url: str, *faults: Fault) -> Iterator[Proxy]:
    """A proxy for a server, with faults."""
    proxy = Proxy(url)
    proxy.faults += faults
    try:
        yield proxy
    finally:
        proxy.close()

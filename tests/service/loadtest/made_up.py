"""A small server whose every answer a test decides."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

from service.loadtest.open_loop import Address

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


def endlessly() -> Iterator[bytes]:
    while True:
        yield REQUEST


class MadeUp(socketserver.ThreadingTCPServer):
    """Gives each request, counted from 0, what ``answer`` says; None closes the connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.lock = threading.Lock()
        self.requests = self.connections = self.open = self.most_open = 0

    def number(self) -> int:
        with self.lock:
            self.requests += 1
            return self.requests - 1

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.server_address[1])


class _Handler(socketserver.BaseRequestHandler):
    server: MadeUp
    request: socket.socket

    def handle(self) -> None:
        server = self.server
        with server.lock:
            server.connections += 1
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        with contextlib.suppress(ConnectionError):
            received = b""
            while data := self.request.recv(4096):
                received += data
                while received.startswith(REQUEST):
                    received = received[len(REQUEST) :]
                    answer = server.answer(server.number())
                    if answer is None:
                        return
                    self.request.sendall(answer)

    def finish(self) -> None:
        with self.server.lock:
            self.server.open -= 1


@contextlib.contextmanager
def answering(answer: Callable[[int], bytes | None]) -> Iterator[MadeUp]:
    with MadeUp(answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()

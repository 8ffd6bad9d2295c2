"""Clients that misbehave tell of whatever they get, and go on."""

from __future__ import annotations

import socket
import socketserver
import threading

from tests.resilience.rough import Rough
from tests.resilience.service import wait_until


class _Fault(socketserver.BaseRequestHandler):
    """Answers as a server does whose application has failed: no JSON, and no length either."""

    request: socket.socket

    def handle(self) -> None:
        try:
            self.request.sendall(b"HTTP/1.0 500 Fault\r\n\r\nInternal Server Error")
            self.request.shutdown(socket.SHUT_WR)
            while self.request.recv(2**16):
                pass
        except OSError:  # some hang up
            pass


def test_every_failure_is_entered_and_no_client_falls_silent():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Fault) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with Rough(server.server_address[1]) as rough:
            for words in ("in a hurry: 500", "with a bad image: 500", "ValueError"):
                wait_until(lambda: sum(words in one for one in rough.failures) > 1, words)  # noqa: B023
        server.shutdown()
    assert rough.ended["hung up"]

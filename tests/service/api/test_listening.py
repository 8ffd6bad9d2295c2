from __future__ import annotations

import socket
import sys

import pytest

from service.api.listening import has_waiting, take_no_more


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a packet filter of Linux")
def test_what_waits_is_accepted_and_nobody_comes_behind():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as waiting:
            take_no_more(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.2)
            assert has_waiting(listener)
            accepted, _ = listener.accept()
            assert not has_waiting(listener)
            with accepted:
                waiting.sendall(b"still here")
                assert accepted.recv(100) == b"still here"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a packet filter of Linux")
def test_a_handshake_that_has_begun_is_finished():
    """Its client has its answer and believes to be connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Keeps a connection half open until its first bytes.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
        with socket.create_connection(listener.getsockname(), 5) as client:
            assert not has_waiting(listener)
            take_no_more(listener)
            client.sendall(b"hello")
            listener.settimeout(5)
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"

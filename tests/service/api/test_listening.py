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

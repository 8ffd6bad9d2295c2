"""How a listening socket ends without breaking connections that wait to be accepted."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import sys

_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>; Python has no name for it
_RETURN = 0x06  # BPF_RET | BPF_K of <linux/bpf_common.h>


def has_waiting(listener: socket.socket) -> bool:
    """Whether there is a connection to be accepted, as far as the system tells."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def take_no_more(listener: socket.socket) -> None:
    """Let the kernel complete no more connections; those that it has can still be accepted.

    To close a listening socket resets what waits in it, and under load something always does. A
    packet filter that drops everything leaves the newcomers to try again, and they find nobody.
    Where there is no such filter, nothing happens: a few connections are then reset at the end.
    """
    if not sys.platform.startswith("linux"):
        return
    drop = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(drop))  # struct sock_fprog, <linux/filter.h>
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

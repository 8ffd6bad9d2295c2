"""How a listening socket ends without breaking connections that wait to be accepted."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import sys

_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>; Python has no name for it
# BPF_LD | BPF_B | BPF_ABS, BPF_ALU | BPF_AND | BPF_K, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K of
# <linux/bpf_common.h>
_LOAD_BYTE, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
_TCP_FLAGS, _SYN, _ACK = 13, 0x02, 0x10  # the byte of the header, and bits of it
_DROP, _KEEP = 0, 0xFFFFFFFF
# What a socket is shown begins with the header of TCP.
_DROP_NEWCOMERS = b"".join(
    struct.pack("HBBI", *step)
    for step in (
        (_LOAD_BYTE, 0, 0, _TCP_FLAGS),
        (_AND, 0, 0, _SYN | _ACK),
        (_JUMP_IF_EQUAL, 0, 1, _SYN),  # or else skip a step
        (_RETURN, 0, 0, _DROP),
        (_RETURN, 0, 0, _KEEP),
    )
)


def has_waiting(listener: socket.socket) -> bool:
    """Whether there is a connection to be accepted, as far as the system tells."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def take_no_more(listener: socket.socket) -> None:
    """Let the kernel begin no more connections; those that it has can still be accepted.

    To close a listening socket resets what waits in it, and under load something always does. A
    packet filter that drops what asks for a connection leaves the newcomers to try again, and they
    find nobody; who has been answered already comes in, for such a client believes to be connected.
    Where there is no such filter, nothing happens: a few connections are then reset at the end.
    """
    if not sys.platform.startswith("linux"):
        return
    steps = ctypes.create_string_buffer(_DROP_NEWCOMERS)
    count = len(_DROP_NEWCOMERS) // struct.calcsize("HBBI")
    # struct sock_fprog of <linux/filter.h>
    program = struct.pack("HP", count, ctypes.addressof(steps))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

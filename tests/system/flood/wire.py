"""A bare HTTP/1.1 client: what is sent, when, and when it hangs up is up to the caller."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_HEAD_BYTES = 64 * 1024
BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=_HEAD_BYTES))

    async def send(self, *blocks: bytes) -> None:
        for block in blocks:
            self.writer.write(block)
            await self.writer.drain()

    async def receive(self) -> Answer:
        """The next final answer.

        Raises:
            asyncio.IncompleteReadError: The server hung up before its end.
        """
        while True:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            status = int(first.split()[1])
            if status >= 200:
                break
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)

    async def close(self, *, reset: bool = False) -> None:
        if reset:  # what is on its way is thrown away, and the other side is told at once
            linger = struct.pack("ii", 1, 0)
            connected = self.writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.writer.transport.abort()
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def head_of(query: str, headers: dict[str, str]) -> bytes:
    lines = [f"POST /v1/classify{query} HTTP/1.1", "Host: x"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def in_blocks(body: bytes, size: int = BLOCK_BYTES) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def chunked(blocks: Sequence[bytes]) -> list[bytes]:
    """Blocks of a body as chunks, with the one that ends it."""
    return [*(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks), b"0\r\n\r\n"]

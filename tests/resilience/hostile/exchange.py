"""Acts one input out on a connection of its own, and hears all that comes back."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from tests.resilience.hostile.inputs import HUNG_UP, Drip, EndOfInput, Input, Pause, Step

_BLOCK_BYTES = 64 * 1024
_END_S = 10.0  # a server that has answered and hears the end of input closes


@dataclass(frozen=True)
class Answer:
    """One final answer.

    Attributes:
        status: Of HTTP, or ``HUNG_UP``.
        headers: By their names in lower case.
        body: Without the framing.
    """

    status: int
    headers: dict[str, str]
    body: bytes


async def act(port: int, case: Input) -> list[Answer]:
    """Play an input's script.

    Returns:
        Its answers in order, those too that nobody asked for; one ``HUNG_UP`` where there is none.

    Raises:
        TimeoutError: The answers were not there in time, or the connection stays open behind them.
        OSError: The server can't be reached.
    """
    async with asyncio.timeout(case.limit_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            hearing = asyncio.create_task(_hear(reader, case))
            sending = asyncio.create_task(_send(writer, case.script))
            try:
                answers = await hearing
            finally:
                sending.cancel()
                hearing.cancel()
                await asyncio.wait((sending, hearing))
            if answers[-1].status != HUNG_UP:
                answers += await _hear_the_end(reader, writer, case)
            return answers
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _send(writer: asyncio.StreamWriter, script: tuple[Step, ...]) -> None:
    """Play the script as far as the server lets it; one that has answered may hang up."""
    with contextlib.suppress(OSError):
        for step in script:
            match step:
                case Pause():
                    await asyncio.sleep(step.seconds)
                case Drip():
                    for _ in range(step.times):
                        await _write(writer, step.block)
                        await asyncio.sleep(step.every_s)
                case EndOfInput():
                    writer.write_eof()
                case _:
                    for start in range(0, len(step), _BLOCK_BYTES):
                        await _write(writer, step[start : start + _BLOCK_BYTES])


async def _write(writer: asyncio.StreamWriter, block: bytes) -> None:
    writer.write(block)
    await writer.drain()


async def _hear(reader: asyncio.StreamReader, case: Input) -> list[Answer]:
    answers: list[Answer] = []
    while len(answers) < case.answers:
        answer = await _next(reader, bodiless=case.bodiless)
        if answer is None:
            return answers or [Answer(HUNG_UP, {}, b"")]
        answers.append(answer)
    return answers


async def _hear_the_end(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, case: Input
) -> list[Answer]:
    """What else comes until the server closes, as it must when its client sends no more."""
    extra = []
    async with asyncio.timeout(_END_S):
        with contextlib.suppress(OSError):
            if not writer.is_closing():
                writer.write_eof()
        while answer := await _next(reader, bodiless=case.bodiless):
            extra.append(answer)
    return extra


async def _next(reader: asyncio.StreamReader, *, bodiless: bool) -> Answer | None:
    """The next final answer, or None at the end of the connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            status = int(first.split()[1])
            if status >= 200:
                break
    except (asyncio.IncompleteReadError, OSError):
        return None
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = b"" if bodiless else await _body(reader, headers)
    return Answer(status, headers, body)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    try:
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        blocks = []
        while size := int(await reader.readline(), 16):
            blocks.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(blocks)
    except (asyncio.IncompleteReadError, OSError) as error:
        raise AssertionError(f"an answer broke off: {error}") from error

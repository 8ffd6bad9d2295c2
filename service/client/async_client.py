"""The client for asyncio."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar

import httpx

from service.client import calls
from service.client.calls import Question
from service.client.connection import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_IN_FLIGHT,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT_S,
    OnError,
    check_many,
    find_endpoint,
    http_options,
)
from service.client.exchange import Reply, Send, Steps, resume
from service.client.groups import Grouper
from service.client.images import Entry, ImageLike, is_quick, load_entry
from service.client.results import ModelInfo, Result

T = TypeVar("T")


class AsyncClient:
    """Asks a server without blocking; ``Client`` says what arguments and results mean.

    Connections are kept and used again; ``close``, or the end of an ``async with`` block, ends
    them. It belongs to the event loop that it is first used in.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        """Connect to nothing yet; arguments as ``Client`` takes them.

        Raises:
            ValueError: A value is not allowed.
        """
        self._endpoint = find_endpoint(url, retries, timeout)
        self._http = httpx.AsyncClient(**http_options(api_key, headers, verify))

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._endpoint.url

    async def classify(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int = 5,
        timeout: float | None = None,  # noqa: ASYNC109, it covers retries and is told the server
    ) -> Result:
        """Classify one image; see ``Client.classify``."""
        entry = await _load(image, 0)
        if isinstance(entry.content, Exception):
            raise entry.content.__cause__ or entry.content
        question = Question(model, version, top_k, timeout)
        (result,) = await self._run(calls.classify_entries(self._endpoint, question, [entry]))
        if result.error is not None:
            raise result.error
        return result

    def classify_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int = 5,
        timeout: float | None = None,
        on_error: OnError = "return",
        batch_size: int = DEFAULT_BATCH_SIZE,
        in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> AsyncGenerator[Result, None]:
        """Classify any number of images, in bounded memory; see ``Client.classify_many``.

        Files are read in a thread. Leaving the loop early cancels the requests in work.

        Raises:
            ValueError: A value is not allowed.
        """
        check_many(batch_size, in_flight, on_error)
        self._endpoint.deadline(timeout)
        question = Question(model, version, top_k, timeout)
        return self._stream(_group(images, batch_size), question, on_error, in_flight)

    async def models(self) -> list[ModelInfo]:
        """Every model of the server, by name."""
        return await self._run(calls.list_models(self._endpoint))

    async def model(self, name: str) -> ModelInfo:
        """One model.

        Raises:
            RequestRefusedError: There is none of this name.
        """
        return await self._run(calls.show_model(self._endpoint, name))

    async def health(self) -> bool:
        """True where the server's process answers, whether or not it is ready.

        Raises:
            ClientError: It does not.
        """
        return await self._run(calls.check_health(self._endpoint))

    async def ready(self) -> bool:
        """Whether the server's models can answer now.

        Raises:
            ConnectionFailedError: Nobody answers there.
        """
        return await self._run(calls.check_ready(self._endpoint))

    async def wait_until_ready(
        self,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109, the error says what it waited for
    ) -> None:
        """Wait for a server that is being started, or that is not there yet.

        Raises:
            TimedOutError: It is not ready after ``timeout`` seconds; the message says why.
        """
        await self._run(calls.wait_until_ready(self._endpoint, timeout))

    async def close(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _stream(
        self,
        groups: AsyncGenerator[list[Entry], None],
        question: Question,
        on_error: OnError,
        in_flight: int,
    ) -> AsyncGenerator[Result, None]:
        work: deque[asyncio.Task[list[Result]]] = deque()
        try:
            async with aclosing(groups):
                while (entries := await anext(groups, None)) is not None or work:
                    if entries is not None:
                        steps = calls.classify_entries(self._endpoint, question, entries)
                        work.append(asyncio.create_task(self._run(steps)))
                        if len(work) < in_flight and not work[0].done():
                            continue
                    for result in await work.popleft():
                        if on_error == "raise" and result.error is not None:
                            raise result.error
                        yield result
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _run(self, steps: Steps[T]) -> T:
        """Take the steps."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Send):
                    step = resume(steps, await self._send(step))
                else:
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _send(self, send: Send) -> Reply | httpx.RequestError:
        """Send a request; returns its answer, or what kept it from coming."""
        request = send.request
        try:
            async with asyncio.timeout(send.deadline.left_s()):
                response = await self._http.request(
                    request.method,
                    self._endpoint.url + request.path,
                    params=request.params,
                    content=request.content or None,
                    headers=send.headers(),
                    timeout=send.timeout(),
                )
        except httpx.RequestError as error:
            return error
        except TimeoutError:
            return httpx.ReadTimeout("the deadline has passed")
        return Reply(response.status_code, response.headers, response.content)


async def _group(
    images: Iterable[ImageLike] | AsyncIterable[ImageLike], max_images: int
) -> AsyncGenerator[list[Entry], None]:
    """Load images, and put them into groups."""
    grouper = Grouper(max_images)
    index = 0
    async for image in _each(images):
        for complete in grouper.add(await _load(image, index)):
            yield complete
        index += 1
    if rest := grouper.rest():
        yield rest


async def _each(
    images: Iterable[ImageLike] | AsyncIterable[ImageLike],
) -> AsyncGenerator[ImageLike, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


async def _load(image: ImageLike, index: int) -> Entry:
    if is_quick(image):
        return load_entry(image, index)
    return await asyncio.to_thread(load_entry, image, index)

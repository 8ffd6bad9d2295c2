"""The blocking client."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
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
    blocks,
    check_many,
    find_endpoint,
    http_options,
)
from service.client.exchange import Reply, Send, Steps, Wait, resume
from service.client.groups import group, in_order
from service.client.images import Entry, ImageLike, load_entry
from service.client.results import ModelInfo, Result

T = TypeVar("T")


class Client:
    """Asks a server, and waits for its answers. May be shared by threads.

    Connections are kept and used again; ``close``, or the end of a ``with`` block, ends them. What
    was created before a fork is not to be used behind it.
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
        """Connect to nothing yet.

        Args:
            url: Of the server; default: ``ADARESNET_URL``, else ``http://localhost:8000``.
            api_key: Sent as ``Authorization: Bearer``; default: ``ADARESNET_API_KEY``.
            timeout: Seconds for a request, its retries included; None: no limit.
            retries: Attempts after the first, where nothing was answered or the server is full;
                where it says when to come back there are as many as ``timeout`` leaves room for.
            headers: Sent with every request, for a gateway for instance.
            verify: Which certificates to trust.

        Raises:
            ValueError: A value is not allowed.
        """
        self._endpoint = find_endpoint(url, retries, timeout)
        self._http = httpx.Client(**http_options(api_key, headers, verify))

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._endpoint.url

    def classify(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int = 5,
        timeout: float | None = None,
    ) -> Result:
        """Classify one image.

        Args:
            image: A path, bytes of a file, a file opened with ``"rb"``, a PIL image, or an array
                uint8 [H, W, 3] (RGB) or [H, W] (grey).
            model: Name; default: the server's.
            version: Of the model; default: the highest that is ready.
            top_k: Classes, best first.
            timeout: Seconds, retries included; default: the client's. The server hears of it and
                drops what nobody waits for.

        Raises:
            OSError: The file can't be read.
            ImageError: It is no image that can be read.
            ClientError: The server can't be asked, or refuses.
        """
        entry = load_entry(image, 0)
        if isinstance(entry.content, Exception):
            raise entry.content.__cause__ or entry.content
        question = Question(model, version, top_k, timeout)
        (result,) = self._run(calls.classify_entries(self._endpoint, question, [entry]))
        if result.error is not None:
            raise result.error
        return result

    def classify_many(
        self,
        images: Iterable[ImageLike],
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int = 5,
        timeout: float | None = None,
        on_error: OnError = "return",
        batch_size: int = DEFAULT_BATCH_SIZE,
        in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> Generator[Result, None, None]:
        """Classify any number of images, in bounded memory.

        Images are taken and read in the caller's thread, as far ahead of the results as requests
        are in work. An array [N, H, W, 3] or [N, H, W] is N images.

        Args:
            images: As ``classify`` takes them; a generator may yield millions.
            model: Name; default: the server's.
            version: Of the model; default: the highest that is ready.
            top_k: Classes an image, best first.
            timeout: Seconds for each request of up to ``batch_size`` images, retries included;
                default: the client's.
            on_error: ``return``: the Result of a bad image has an ``error``, and raises it from
                ``predictions``; ``raise``: iterating raises the first.
            batch_size: Images of one request at most; it has less where they take 4 MiB.
            in_flight: Requests in work at once.

        Returns:
            One result an image, in order; closing it ends the work early. Iterating raises
            ClientError where a request failed as a whole, and ImageError with ``on_error="raise"``.

        Raises:
            ValueError: A value is not allowed.
        """
        check_many(batch_size, in_flight, on_error)
        self._endpoint.deadline(timeout)
        question = Question(model, version, top_k, timeout)
        return self._stream(group(images, batch_size), question, on_error, in_flight)

    def models(self) -> list[ModelInfo]:
        """Every model of the server, by name."""
        return self._run(calls.list_models(self._endpoint))

    def model(self, name: str) -> ModelInfo:
        """One model.

        Raises:
            RequestRefusedError: There is none of this name.
        """
        return self._run(calls.show_model(self._endpoint, name))

    def health(self) -> bool:
        """True where the server's process answers, whether or not it is ready.

        Raises:
            ClientError: It does not.
        """
        return self._run(calls.check_health(self._endpoint))

    def ready(self) -> bool:
        """Whether the server's models can answer now.

        Raises:
            ConnectionFailedError: Nobody answers there.
        """
        return self._run(calls.check_ready(self._endpoint))

    def wait_until_ready(self, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Wait for a server that is being started, or that is not there yet.

        Raises:
            TimedOutError: It is not ready after ``timeout`` seconds; the message says why.
        """
        self._run(calls.wait_until_ready(self._endpoint, timeout))

    def close(self) -> None:
        """End all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _stream(
        self, groups: Iterator[list[Entry]], question: Question, on_error: OnError, in_flight: int
    ) -> Generator[Result, None, None]:
        given_up = threading.Event()

        def begin(entries: list[Entry]) -> Future[Sequence[Result]]:
            # Threads of their own and not a pool: the interpreter waits for a pool's at its end,
            # and Ctrl-C would have to wait for answers that nobody wants any more.
            future: Future[Sequence[Result]] = Future()
            steps = calls.classify_entries(self._endpoint, question, entries)
            arguments = (steps, future, given_up)
            threading.Thread(target=self._fulfil, args=arguments, daemon=True).start()
            return future

        try:
            for result in in_order(groups, begin, in_flight):
                if on_error == "raise" and result.error is not None:
                    raise result.error
                yield result
        finally:
            given_up.set()

    def _fulfil(
        self,
        steps: Steps[list[Result]],
        future: Future[Sequence[Result]],
        given_up: threading.Event,
    ) -> None:
        try:
            future.set_result(self._run(steps, given_up))
        except BaseException as error:  # whoever asks for the result gets it
            future.set_exception(error)

    def _run(self, steps: Steps[T], given_up: threading.Event | None = None) -> T:
        """Take the steps; once they are given up, no further one."""
        try:
            step = next(steps)
            while True:
                if given_up is not None and given_up.is_set():
                    raise CancelledError
                if isinstance(step, Send):
                    step = resume(steps, self._send(step))
                else:
                    _wait(step, given_up)
                    step = next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _send(self, send: Send) -> Reply | httpx.RequestError:
        """Send a request; returns its answer, or what kept it from coming."""
        request = send.request
        try:
            with self._http.stream(
                request.method,
                self._endpoint.url + request.path,
                params=request.params,
                content=blocks(send) if request.content else None,
                headers=send.headers(),
                timeout=send.timeout(),
            ) as response:
                body = b"".join(send.deadline.watch(response.iter_bytes()))
        except httpx.RequestError as error:
            return error
        return Reply(response.status_code, response.headers, body)


def _wait(step: Wait, given_up: threading.Event | None) -> None:
    if given_up is None:
        time.sleep(step.seconds)
    else:
        given_up.wait(step.seconds)

"""Answers of one line an image, sent while the rest of the request is still being read.

The body is read on although the client may not read its answer yet: most clients send all of a
request first. What they have not read is kept as numbers, a few bytes a class, up to a limit.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Send

from service.api.accept import read_accept
from service.api.answers import Headers, write_lines
from service.api.encoding import encode
from service.api.errors import INTERNAL_ERROR, PROBLEM
from service.engine.errors import ServiceError
from service.engine.images import Images
from service.engine.predictor import Outcome, Predictor
from service.engine.repository import ReadyVersion

NDJSON = "application/x-ndjson"
_NAMES = frozenset((NDJSON, "application/ndjson", "application/jsonl", "application/jsonlines"))
# Classes of images whose lines the client has not taken yet: 16 MB.
_MAX_UNREAD_CLASSES = 2_000_000
_CLASSES_OF_AN_ERROR = 100  # whose texts take as much memory
_logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=64)
def wants_lines(accept: bytes) -> bool:
    """Whether an ``Accept`` header names lines of JSON, and not one JSON document rather."""
    found = read_accept(accept.decode("latin-1"))
    wanted = max((found[name] for name in _NAMES if name in found), default=0.0)
    return wanted > 0 and wanted >= found.get("application/json", 0.0)


class LinesAnswer:
    """Sends results to one client, in order, and no faster than it takes them."""

    def __init__(self, model: ReadyVersion, k: int, send: Send, headers: Headers) -> None:
        """Begin with nothing sent.

        Args:
            model: That answers.
            k: Classes an image.
            send: Of ASGI.
            headers: Besides the content type.
        """
        self.started = False
        self._model = model
        self._k = k
        self._send = send
        self._headers = [(b"content-type", NDJSON.encode()), *headers]
        self._unread: deque[Outcome] = deque()
        self._unread_classes = 0
        self._changed = asyncio.Event()
        self._complete = False

    async def tell(self, outcome: Outcome) -> None:
        """Take results; waits only while too many are unread."""
        while self._unread_classes > _MAX_UNREAD_CLASSES:
            self._changed.clear()
            await self._changed.wait()
        self.started = True
        self._unread.append(outcome)
        self._unread_classes += self._classes(outcome)
        self._changed.set()

    def finish(self) -> None:
        """There will be no more results."""
        self._complete = True
        self._changed.set()

    async def write(self) -> None:
        """Send results until there are no more; to be run beside the reading."""
        sent = False
        while self._unread or not self._complete:
            if not self._unread:
                self._changed.clear()
                await self._changed.wait()
                continue
            outcome = self._unread.popleft()
            lines = await encode(write_lines, self._model, outcome, self._k)
            await self._deliver(lines, begin=not sent)
            sent = True
            self._unread_classes -= self._classes(outcome)
            self._changed.set()

    async def end(self, problem: bytes = b"") -> None:
        """Send the last line, if the request came to a bad end, and no more."""
        await self._deliver(problem, last=True)

    def _classes(self, outcome: Outcome) -> int:
        good = outcome.count - len(outcome.errors)
        classes = min(self._k, len(self._model.metadata.labels))
        return good * classes + len(outcome.errors) * _CLASSES_OF_AN_ERROR

    async def _deliver(self, lines: bytes, *, begin: bool = False, last: bool = False) -> None:
        # A client that takes nothing is given up by its connection (send_timeout_s).
        if begin:
            start = {"type": "http.response.start", "status": 200, "headers": self._headers}
            await self._send(start)
        await self._send({"type": "http.response.body", "body": lines, "more_body": not last})


async def answer_in_lines(
    request: Request,
    send: Send,
    predictor: Predictor,
    model: ReadyVersion,
    images: Images,
    k: int,
    *,
    timeout_s: float | None,
    headers: Headers,
) -> None:
    """Classify images and send one line for each.

    Args:
        request: Whose state has the id that an error line carries.
        send: Of ASGI.
        predictor: That classifies.
        model: That answers.
        images: All at once or as a stream.
        k: Classes an image.
        timeout_s: Time for all of them; None: as configured, from each bit to the next.
        headers: Of the answer, besides the content type.

    Raises:
        ServiceError: It can't be answered, and nothing was sent. Later it becomes the last line, an
            error without an index.
        ClientDisconnect: The client hung up before anything was sent.
    """
    answer = LinesAnswer(model, k, send, headers)
    writing = asyncio.create_task(answer.write())
    predicting = asyncio.ensure_future(
        predictor.predict_in_parts(model, images, k, answer.tell, timeout_s=timeout_s)
    )
    problem = b""
    try:
        # The writer ends first only if the client is gone.
        await asyncio.wait((writing, predicting), return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            await writing
        try:
            await predicting
        except ServiceError as error:
            if not answer.started:
                raise
            problem = _last_line(request, error)
        answer.finish()
        await writing
        await answer.end(problem)
    except Exception as error:
        if not answer.started:
            raise
        # The status has been sent. An answer without an end tells the client that it is not whole.
        if not isinstance(error, ServiceError | ClientDisconnect):
            _note(request, INTERNAL_ERROR)
            _logger.exception("unexpected error in an answer of lines")
    finally:
        predicting.cancel()
        writing.cancel()
        await asyncio.wait((writing, predicting))


def _last_line(request: Request, error: ServiceError) -> bytes:
    _note(request, error.code)
    problem = {
        "code": error.code,
        "detail": error.detail,
        "hint": error.hint,
        "request_id": request.state.request_id,
    }
    return orjson.dumps({"error": problem}, option=orjson.OPT_APPEND_NEWLINE)


def _note(request: Request, code: str) -> None:
    """Let metrics and traces know what an answer came to that had begun well."""
    request.app.state.metrics.refused(code)
    request.scope["state"][PROBLEM] = code

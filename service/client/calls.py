"""What the client can ask, each as steps for a driver to take (``service.client.exchange``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from service.client.errors import ImageError, RequestRefusedError, TimedOutError, image_error
from service.client.exchange import Deadline, Endpoint, Request, Send, Steps, Wait
from service.client.images import Entry, Pixels, write_npy
from service.client.results import ModelInfo, Result, read_model, read_predictions

_CLASSIFY = "/v1/classify"
_MODELS = "/v1/models"
_TOO_LARGE = 413
_NOT_READY = 503
_BAD_PIXELS = "invalid_tensor"
_FIRST_LOOK_S, _MAX_LOOK_S = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every image of a call."""

    model: str | None = None
    version: int | None = None
    top_k: int = 5
    timeout_s: float | None = None

    def params(self) -> dict[str, str]:
        """As the query has it; the server skips bad images, and says which."""
        params = {"top_k": str(self.top_k), "on_error": "skip"}
        if self.model is not None:
            params["model"] = self.model
        if self.version is not None:
            params["version"] = str(self.version)
        return params


def classify_entries(
    endpoint: Endpoint, question: Question, entries: Sequence[Entry]
) -> Steps[list[Result]]:
    """Classify images in one request, or in several where the server finds one too large.

    Args:
        endpoint: The server.
        question: About each image.
        entries: All files, or all pixels of one shape; errors may be among them.

    Returns:
        A result for each, in order.

    Raises:
        ClientError: The request as a whole failed.
    """
    good = [entry for entry in entries if not isinstance(entry.content, ImageError)]
    answered: dict[int, Result] = {}
    if good:
        answered = yield from _classify_good(endpoint, question, good)
    return [answered.get(entry.index) or failed(entry) for entry in entries]


def _classify_good(
    endpoint: Endpoint, question: Question, entries: list[Entry]
) -> Steps[dict[int, Result]]:
    try:
        reply = yield from endpoint.exchange(
            _classify_request(question, entries), question.timeout_s
        )
    except RequestRefusedError as refused:
        if refused.code == _BAD_PIXELS or (refused.status == _TOO_LARGE and len(entries) == 1):
            return {entry.index: _refused(entry, refused) for entry in entries}
        if refused.status != _TOO_LARGE:
            raise
        # One of them, or all together: half of them may pass.
        half = len(entries) // 2
        first = yield from _classify_good(endpoint, question, entries[:half])
        second = yield from _classify_good(endpoint, question, entries[half:])
        return {**first, **second}
    try:
        return read_results(reply.json(), reply.headers.get("x-request-id"), entries)
    except (ValueError, KeyError, TypeError):
        raise endpoint.unexpected(reply) from None


def list_models(endpoint: Endpoint) -> Steps[list[ModelInfo]]:
    """Every model of the server."""
    reply = yield from endpoint.exchange(Request("GET", _MODELS), None)
    try:
        return [read_model(row) for row in reply.json()["models"]]
    except (ValueError, KeyError, TypeError):
        raise endpoint.unexpected(reply) from None


def show_model(endpoint: Endpoint, name: str) -> Steps[ModelInfo]:
    """One model of the server."""
    reply = yield from endpoint.exchange(Request("GET", f"{_MODELS}/{quote(name, safe='')}"), None)
    try:
        return read_model(reply.json())
    except (ValueError, KeyError, TypeError):
        raise endpoint.unexpected(reply) from None


def check_health(endpoint: Endpoint) -> Steps[bool]:
    """Whether the server's process answers."""
    yield from endpoint.exchange(Request("GET", "/healthz"), None)
    return True


def check_ready(endpoint: Endpoint) -> Steps[bool]:
    """Whether the server can answer now; without any retry."""
    try:
        reason = yield from _look(endpoint, endpoint.deadline(None))
    except httpx.TimeoutException:
        return False
    except httpx.RequestError as broken:
        raise endpoint.connection_failed(broken) from broken
    return reason is None


def wait_until_ready(endpoint: Endpoint, timeout_s: float) -> Steps[None]:
    """Look again and again until the server can answer.

    Raises:
        TimedOutError: It can't in time; the message says why.
        ClientError: It refuses, or is another kind of server.
    """
    deadline = endpoint.deadline(timeout_s)
    pause_s = _FIRST_LOOK_S
    while True:
        try:
            reason = yield from _look(endpoint, deadline)
        except httpx.RequestError as broken:
            reason = str(broken) or type(broken).__name__
        if reason is None:
            return
        if not deadline.leaves(pause_s):
            raise TimedOutError(f"{endpoint.url} is not ready after {timeout_s:g} s: {reason}.")
        yield Wait(pause_s)
        pause_s = min(2 * pause_s, _MAX_LOOK_S)


def _look(endpoint: Endpoint, deadline: Deadline) -> Steps[str | None]:
    """Why the server can't answer now, or None where it can."""
    reply = yield Send(Request("GET", "/readyz"), deadline)
    assert reply is not None
    if reply.status == 200:
        return None
    if reply.status != _NOT_READY:
        raise endpoint.error_of(reply)
    try:
        return str(reply.json()["status"]).removeprefix("not ready: ").rstrip(".")
    except (ValueError, KeyError, TypeError):
        return f"it answers {reply.status}"


def _classify_request(question: Question, entries: list[Entry]) -> Request:
    pixels = [entry.content for entry in entries if isinstance(entry.content, Pixels)]
    files = [entry.content for entry in entries if isinstance(entry.content, bytes)]
    if pixels:
        assert not files
        content, content_type = write_npy(pixels), "application/x-npy"
    elif len(files) == 1:
        content, content_type = files[0], "application/octet-stream"
    else:
        content, content_type = _write_form(files)
    return Request("POST", _CLASSIFY, question.params(), content, content_type)


def _write_form(files: list[bytes]) -> tuple[bytes, str]:
    """A body of multipart/form-data (RFC 7578), and its content type."""
    boundary = os.urandom(16).hex()
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n\r\n'
    ).encode()
    blocks: list[bytes] = []
    for file in files:
        blocks += (head, file, b"\r\n")
    blocks.append(f"--{boundary}--\r\n".encode())
    return b"".join(blocks), f"multipart/form-data; boundary={boundary}"


def read_results(
    answer: dict[str, Any], request_id: str | None, entries: Sequence[Entry]
) -> dict[int, Result]:
    """The service's answer for each image, by its index in the call.

    Raises:
        ValueError, KeyError, TypeError: It is none of this service's.
    """
    model, version = str(answer["model"]), int(answer["version"])
    results = {}
    for entry, row in zip(entries, answer["results"], strict=True):
        error = _image_problem(entry, row["error"]) if "error" in row else None
        predictions = () if error else read_predictions(row["predictions"])
        results[entry.index] = Result(
            entry.index, entry.source, model, version, request_id, error, predictions
        )
    return results


def failed(entry: Entry) -> Result:
    """The result of an image that can't be sent."""
    assert isinstance(entry.content, ImageError)
    return Result(entry.index, entry.source, None, None, None, entry.content, ())


def _image_problem(entry: Entry, problem: dict[str, Any]) -> ImageError:
    return image_error(
        entry.index, entry.source, problem["code"], problem["detail"], problem["hint"]
    )


def _refused(entry: Entry, refused: RequestRefusedError) -> Result:
    error = image_error(entry.index, entry.source, refused.code, refused.detail, refused.hint)
    return Result(entry.index, entry.source, None, None, refused.request_id, error, ())

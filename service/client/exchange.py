"""One request and its answer: deadline, retries and errors, without any input or output.

What is to be done is written once, as generators that yield each ``Step``; ``Client`` takes the
steps by blocking, ``AsyncClient`` by awaiting. Either sends the ``Reply`` of each ``Send`` back in,
or throws what httpx raised, and goes on after each ``Wait``.
"""

from __future__ import annotations

import email.utils
import itertools
import json
import random
import ssl
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import httpx

from service.client.errors import (
    AnswerError,
    ClientError,
    ConnectionFailedError,
    OverloadedError,
    RequestRefusedError,
    ServerFaultError,
    TimedOutError,
    UnexpectedAnswerError,
)

T = TypeVar("T")

_CONNECT_S = 10.0
_BACKOFF_S = 0.1  # doubled with every retry
_MAX_BACKOFF_S = 10.0
_MAX_TIMEOUT_S = 3600.0  # the most that the server takes as X-Request-Timeout
_SHOWN = 200  # characters of an answer that is not the service's
_OK, _TIMED_OUT = 200, 504
_RETRIED = (429, 502, 503)
_KEY_HINT = "Give api_key=, or set ADARESNET_API_KEY."


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, as often as need be."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; names of ``headers`` are found in any case."""

    status: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        """The body.

        Raises:
            ValueError: It is no JSON.
        """
        return json.loads(self.body)


class Deadline:
    """When a call has to be over; None: never."""

    def __init__(self, timeout_s: float | None) -> None:
        """Begin now."""
        self.timeout_s = timeout_s
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float | None:
        """Seconds until then, at least 0."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def leaves(self, seconds: float) -> bool:
        """Whether there is more time left than that."""
        left_s = self.left_s()
        return left_s is None or left_s > seconds

    def watch(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The same blocks, until the deadline: httpx limits only each single wait.

        Iterating raises httpx.ReadTimeout.
        """
        for block in blocks:
            if not self.leaves(0):
                raise httpx.ReadTimeout("the deadline has passed")
            yield block


@dataclass(frozen=True, slots=True)
class Send:
    """Step: send this, and give the Reply or throw the httpx.RequestError."""

    request: Request
    deadline: Deadline

    def headers(self) -> dict[str, str]:
        """Headers of this attempt."""
        headers = {}
        request = self.request
        if request.method == "POST":
            headers["Content-Type"] = request.content_type
            headers["Content-Length"] = str(len(request.content))
            left_s = self.deadline.left_s()
            if left_s is not None:
                headers["X-Request-Timeout"] = f"{min(max(left_s, 0.001), _MAX_TIMEOUT_S):.3f}"
        return headers

    def timeout(self) -> httpx.Timeout:
        """Limits on each wait of this attempt."""
        left_s = self.deadline.left_s()
        connect_s = _CONNECT_S if left_s is None else min(_CONNECT_S, left_s)
        return httpx.Timeout(left_s, connect=connect_s)


@dataclass(frozen=True, slots=True)
class Wait:
    """Step: let so many seconds pass."""

    seconds: float


Step: TypeAlias = Send | Wait
Steps: TypeAlias = Generator[Step, Reply | None, T]


def resume(steps: Steps[Any], outcome: Reply | httpx.RequestError) -> Step:
    """Go on with what became of a Send; returns the next step.

    Raises:
        StopIteration: There is none; its value is the result.
    """
    if isinstance(outcome, Reply):
        return steps.send(outcome)
    return steps.throw(outcome)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and how patient to be with it.

    Attributes:
        url: Where it is, without a slash at the end.
        retries: Attempts after the first, but for those that the server asks for.
        timeout_s: Time for a call where it names none; None: for ever.
    """

    url: str
    retries: int
    timeout_s: float | None

    def deadline(self, timeout_s: float | None) -> Deadline:
        """Begin a call.

        Raises:
            ValueError: The timeout is not positive.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        check_timeout(timeout_s)
        return Deadline(timeout_s)

    def exchange(self, request: Request, timeout_s: float | None) -> Steps[Reply]:
        """Send a request until it is answered, is refused, or there is no point in it any more.

        Every request of this client may be sent twice: none changes anything.

        Returns:
            An answer with status 200.

        Raises:
            ClientError: There is none.
        """
        deadline = self.deadline(timeout_s)
        counted = 0
        for attempt in itertools.count():
            error, retried = yield from self._attempt(request, deadline)
            if isinstance(error, Reply):
                return error
            retry_after_s = getattr(error, "retry_after", None)
            # Who is told when to come back, as with a rate for each key, may come until the
            # deadline.
            if retry_after_s is None or deadline.timeout_s is None:
                counted += 1
            wait_s = _backoff_s(attempt, retry_after_s)
            # Nobody would be there to hear the answer to a retry behind the deadline.
            if not retried or counted > self.retries or not deadline.leaves(wait_s):
                raise error
            yield Wait(wait_s)
        raise AssertionError("unreachable")

    def _attempt(
        self, request: Request, deadline: Deadline
    ) -> Steps[tuple[Reply | ClientError, bool]]:
        """Send a request once; returns its answer or the error, and whether to try again."""
        try:
            if not deadline.leaves(0):
                raise httpx.ReadTimeout("the deadline has passed")
            reply = yield Send(request, deadline)
            assert reply is not None
        except (httpx.ConnectTimeout, httpx.NetworkError, httpx.ProtocolError) as broken:
            return self.connection_failed(broken), not _is_distrust(broken)
        except httpx.TimeoutException:
            return self._timed_out(deadline), False
        except httpx.RequestError as broken:  # a proxy that refuses, a broken compression
            return self.connection_failed(broken), False
        if reply.status == _OK:
            return reply, False
        error = self.error_of(reply)
        return error, isinstance(error, OverloadedError)

    def connection_failed(self, broken: httpx.RequestError) -> ConnectionFailedError:
        """What to raise for a connection that failed."""
        hint = "Is the service running there, and the URL right?"
        if _is_distrust(broken):
            hint = "Give verify= an ssl.SSLContext that trusts its certificate."
        reason = str(broken) or type(broken).__name__
        error = ConnectionFailedError(f"{self.url} can't be reached: {reason}. {hint}")
        error.__cause__ = broken
        return error

    def error_of(self, reply: Reply) -> ClientError:
        """What to raise for an answer that is not 200."""
        problem = _problem_of(reply, self.url)
        code, status = problem["code"], reply.status
        request_id = problem["request_id"]
        message = f"{problem['detail']} {problem['hint']}".strip()
        message += f" ({status} {code}" + (f", request {request_id})" if request_id else ")")
        if status == _TIMED_OUT:
            return TimedOutError(message, request_id=request_id)
        kind: type[AnswerError] = RequestRefusedError
        if status in _RETRIED:
            kind = OverloadedError
        elif status >= 500:
            kind = ServerFaultError
        error = kind(message, status=status, **problem)
        if isinstance(error, OverloadedError):
            error.retry_after = _seconds(reply.headers.get("retry-after"))
        return error

    def unexpected(self, reply: Reply) -> UnexpectedAnswerError:
        """What to raise for an answer that makes no sense."""
        return UnexpectedAnswerError(
            f"{self.url} is not a server of this kind: it answered {_shown(reply)}."
            " Is the URL right?"
        )

    def _timed_out(self, deadline: Deadline) -> TimedOutError:
        return TimedOutError(
            f"No answer from {self.url} within {deadline.timeout_s:g} s."
            " Allow more time with timeout=, or send less at once."
        )


def check_timeout(timeout_s: float | None) -> None:
    """Refuse a time that is none.

    Raises:
        ValueError: It is not positive.
    """
    if timeout_s is not None and not timeout_s > 0:
        raise ValueError(f"timeout is {timeout_s}; it must be more than 0 seconds, or None")


def _problem_of(reply: Reply, url: str) -> dict[str, Any]:
    """The fields of a problem document (RFC 9457), or what comes closest to them."""
    try:
        found = reply.json()
        problem = {name: str(found[name]) for name in ("code", "detail", "hint")}
        errors = tuple(found.get("errors") or ())
        request_id = found.get("request_id")
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = {
            "code": f"http_{reply.status}",
            "detail": f"{url} answered {_shown(reply)}.",
            "hint": "That is no answer of this service: is the URL right, or a proxy in between?",
        }
        errors, request_id = (), reply.headers.get("x-request-id")
    if reply.status in (401, 403) and "api_key" not in problem["hint"]:
        problem["hint"] = f"{problem['hint']} {_KEY_HINT}".strip()
    return {**problem, "errors": errors, "request_id": request_id}


def _shown(reply: Reply) -> str:
    text = reply.body[:_SHOWN].decode("utf-8", "replace")
    if "location" in reply.headers:
        text = f"go to {reply.headers['location'][:_SHOWN]}"
    return f"status {reply.status}, {text!r}"


def _backoff_s(attempt: int, retry_after_s: float | None) -> float:
    """Exponential backoff with full jitter, behind what the server asks for.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
    """
    most_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** min(attempt, 16))
    if retry_after_s is None:
        return random.uniform(0, most_s)  # noqa: S311, no secret
    # Those who were told the same time don't all come at that moment, and not much later either.
    return retry_after_s + random.uniform(0, min(most_s, max(1.0, retry_after_s)))  # noqa: S311


def _seconds(text: str | None) -> float | None:
    """What a Retry-After says, seconds from now: it is a number or a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def _is_distrust(error: BaseException | None) -> bool:
    """Whether a certificate was refused: trying again would not help."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False

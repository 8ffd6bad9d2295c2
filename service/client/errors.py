"""Every error that the client raises on purpose, as one tree.

ClientError
├── ConnectionFailedError    nobody answers there, or the connection broke; a ConnectionError too
├── TimedOutError            no answer in time, here or at the server; a TimeoutError too
├── AnswerError              the server answered with an error
│   ├── RequestRefusedError  the request is wrong (4xx); the same request fails again
│   ├── OverloadedError      429, 502 or 503, after all retries
│   └── ServerFaultError     the server failed on it (other 5xx)
├── UnexpectedAnswerError    the answer is none of this service's
└── ImageError               one image can't be classified; a ValueError too

What an error has besides its message has a default, so that errors can be pickled and cross from
one process to another.
"""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Base of the tree; the message says what happened and what to do."""


class ConnectionFailedError(ClientError, ConnectionError):
    """No connection, or one that broke, after all retries."""

    def __init__(self, message: str) -> None:
        """Say what happened."""
        super().__init__(message)


class TimedOutError(ClientError, TimeoutError):
    """No answer within ``timeout``, or the server gave up on the request (504).

    Attributes:
        request_id: Of the request in the server's log, if the server answered.
    """

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        """Say what happened."""
        super().__init__(message)
        self.request_id = request_id


class AnswerError(ClientError):
    """The server answered with an error (RFC 9457).

    Attributes:
        status: HTTP status.
        code: Stable identifier to branch on, as docs/api.md lists them; ``http_<status>`` where
            the answer came from something else, such as a proxy.
        detail: What happened this time.
        hint: What would be right.
        request_id: Of the request in the server's log, if it says so.
        errors: What is wrong with each image, with ``index``, ``code``, ``detail`` and ``hint``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        detail: str = "",
        hint: str = "",
        request_id: str | None = None,
        errors: tuple[dict[str, Any], ...] = (),
    ) -> None:
        """Say what the server said."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.request_id = request_id
        self.errors = errors


class RequestRefusedError(AnswerError):
    """The request is wrong: another one is needed, not another attempt."""


class OverloadedError(AnswerError):
    """The server is full, not ready or behind a proxy that can't reach it, after all retries.

    Attributes:
        retry_after: When the server says that a new attempt makes sense, seconds from now.
    """

    retry_after: float | None = None


class ServerFaultError(AnswerError):
    """The server failed; its log has the cause under ``request_id``."""


class UnexpectedAnswerError(ClientError):
    """Something answered that is not this service."""


class ImageError(ClientError, ValueError):
    """One image can't be read here, or not by the server.

    Attributes:
        index: Place of the image in the call, from 0.
        source: Its path or file name, where it has one.
        code: Stable identifier: the server's, or ``unreadable_file`` and ``unsupported_image`` for
            what never left this machine.
        detail: What is wrong.
        hint: What would be right; may be empty.
    """

    def __init__(
        self,
        message: str,
        *,
        index: int = 0,
        source: str | None = None,
        code: str = "",
        detail: str = "",
        hint: str = "",
    ) -> None:
        """Say what is wrong with it; ``image_error`` writes the message."""
        super().__init__(message)
        self.index = index
        self.source = source
        self.code = code
        self.detail = detail
        self.hint = hint


def image_error(index: int, source: str | None, code: str, detail: str, hint: str) -> ImageError:
    """An error that names the image."""
    name = f"image {index}" if source is None else f"image {index} ({source})"
    message = f"{name}: {detail} {hint}".strip()
    return ImageError(message, index=index, source=source, code=code, detail=detail, hint=hint)

"""Around every request: its id, one line in the access log, and the limit on its body."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.engine.errors import RequestTooLargeError

_logger = logging.getLogger("service.access")
_PROBES = ("/healthz", "/readyz")  # asked every few seconds; nobody wants to read that
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext:
    """Takes the caller's ``X-Request-ID`` or makes one; sends it back; logs the request.

    Outermost of all, so that even the answer to an unexpected error carries the id.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an ASGI app."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            _logger.log(
                logging.DEBUG if scope["path"] in _PROBES else logging.INFO,
                "%s %s %d %.1f ms %s",
                scope["method"],
                # As it came, percent-encoded: decoded, a path could write a line of its own.
                scope["raw_path"].decode("latin-1"),
                status,
                (time.perf_counter() - started) * 1e3,
                request_id,
            )


class BodyLimit:
    """Refuses a body over a limit, by its stated length before it is read, else while it is read.

    The error is raised where the route reads the body, so it becomes an answer like any other.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        """Wrap an ASGI app."""
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # The HTTP parser has made sure that this is a number.
        stated = int(Headers(scope=scope).get("content-length", "0"))
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            self._check(stated)
            message = await receive()
            received += len(message.get("body", b""))
            self._check(received)
            return message

        await self.app(scope, receive_within_limit, send)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self.max_body_bytes:
            raise RequestTooLargeError(
                f"The body has {size_bytes} bytes or more; the limit is {self.max_body_bytes}.",
                hint="Send fewer or smaller images in one request, or raise max_body_bytes.",
            )

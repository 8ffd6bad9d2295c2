"""What the head of a request must be, besides what the parser sees to, and what is said if not."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE


class HeadError(Exception):
    """Raised to the parser, which stops: the request is refused before it is one.

    Attributes:
        status: Of the answer.
        message: What is wrong.
    """

    def __init__(self, status: int, message: str) -> None:
        """Refuse with this status, for this reason."""
        super().__init__(message)
        self.status = status
        self.message = message


def check_head(method: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse what two readers might take for two different requests, and what only proxies answer.

    Args:
        method: Of the request.
        version: ``1.0`` or ``1.1``.
        headers: Their names in lower case.

    Raises:
        HeadError: It is not as RFC 9112, 3.2 and 6.1 want it, or for a proxy (RFC 9110, 9.3.6).
    """
    hosts = 0
    codings: list[bytes] = []
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            codings += [coding.strip().lower() for coding in value.split(b",")]
    if hosts != 1 and (hosts or version == "1.1"):
        raise HeadError(400, "The address or the Host header of the request is not valid.")
    # What doesn't end in chunked, the parser refuses.
    if codings and codings[-1] == b"chunked" and set(codings) != {b"chunked"}:
        raise HeadError(501, "Only chunked is read as Transfer-Encoding; compress nothing.")
    if method == b"CONNECT":
        raise HeadError(400, "CONNECT is for proxies, and this is none.")


def with_path(url: bytes) -> bytes:
    """The address of a request, which in its absolute form may lack a path (RFC 9112, 3.2.1)."""
    scheme, found, rest = url.partition(b"://")
    if not found or b"/" in scheme or b"?" in scheme or b"/" in rest.partition(b"?")[0]:
        return url
    host, found, query = rest.partition(b"?")
    return b"".join((scheme, b"://", host, b"/", found, query))


def plain_answer(status: int, message: str, headers: bytes = b"") -> bytes:
    """An answer before there is a request that could have a better one."""
    text = message.encode()
    head = (
        STATUS_LINE[status],
        headers,
        b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n",
        b"content-length: %d\r\nconnection: close\r\n\r\n" % len(text),
    )
    return b"".join((*head, text))

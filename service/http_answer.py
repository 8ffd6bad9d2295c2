"""Read answers of HTTP/1.1, no more of them than a load generator needs.

A general parser takes as long for one as the rest of a request does.

Source: RFC 9112, sections 4, 6 and 7.
"""

from __future__ import annotations

_END_OF_LINE = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_VERSIONS = (b"http/1.1 ", b"http/1.0 ")
_WITHOUT_BODY = (204, 304)
_LARGEST_HEAD = 2**16
_SHOWN = 300  # bytes of what is no answer


class AnswerError(Exception):
    """Bytes that are no answer of HTTP/1.1 whose end can be told."""


class AnswerReader:
    """Takes an answer as it arrives; ``clear`` makes it ready for the next.

    Attributes:
        status: Of the answer, once its head is there.
        keeps_open: The server will take another request on this connection.
    """

    def __init__(self) -> None:
        """Nothing has arrived."""
        self._received = bytearray()
        self._body = bytearray()  # of chunks
        self.clear()

    def clear(self) -> None:
        """Forget the answer."""
        self.status = 0
        self.keeps_open = True
        self._received.clear()
        self._body.clear()
        self._at = 0  # where the body, or the next chunk, begins; 0: the head is not complete
        self._end = 0  # where the body ends; 0: after the last chunk

    @property
    def begun(self) -> bool:
        """Something has arrived."""
        return bool(self._received)

    def feed(self, data: bytes) -> bool:
        """Take what arrived; returns whether the answer is complete.

        Raises:
            AnswerError: It is none.
        """
        self._received += data
        if not self._at and not self._read_head():
            return False
        return len(self._received) >= self._end if self._end else self._read_chunks()

    def body(self) -> bytes:
        """The body of a complete answer."""
        return bytes(self._received[self._at : self._end] if self._end else self._body)

    def _read_head(self) -> bool:
        received = self._received
        while (end := received.find(_END_OF_HEAD)) >= 0:
            head = bytes(received[: end + len(_END_OF_LINE)]).lower()
            if not head.startswith(_VERSIONS) or not head[9:12].isdigit():
                raise AnswerError(f"an answer is not HTTP/1.1: {_shown(received)}")
            self.status = int(head[9:12])
            if self.status >= 200:
                self._at = end + len(_END_OF_HEAD)
                self._find_end(head)
                return True
            del received[: end + len(_END_OF_HEAD)]  # one like 103 goes ahead of the answer
        if len(received) > _LARGEST_HEAD:
            raise AnswerError(f"an answer's head does not end: {_shown(received)}")
        return False

    def _find_end(self, head: bytes) -> None:
        connection = _field(head, b"\r\nconnection:")
        self.keeps_open = head.startswith(_VERSIONS[0]) and connection != b"close"
        length = _field(head, b"\r\ncontent-length:")
        if self.status in _WITHOUT_BODY:
            self._end = self._at
        elif length.isdigit():
            self._end = self._at + int(length)
        elif not _field(head, b"\r\ntransfer-encoding:").endswith(b"chunked"):
            raise AnswerError(f"an answer has no length: {_shown(self._received)}")

    def _read_chunks(self) -> bool:
        received = self._received
        while (end := received.find(_END_OF_LINE, self._at)) >= 0:
            digits = bytes(received[self._at : end]).partition(b";")[0].strip()
            if not digits.isalnum():
                raise AnswerError(f"an answer's chunk has no size: {_shown(digits)}")
            try:
                size = int(digits, 16)
            except ValueError:
                raise AnswerError(f"an answer's chunk has no size: {_shown(digits)}") from None
            if not size:
                # Fields may follow; an empty line ends them.
                return received.find(_END_OF_HEAD, end) >= 0
            begin = end + len(_END_OF_LINE)
            after = begin + size + len(_END_OF_LINE)
            if after > len(received):
                return False
            self._body += received[begin : begin + size]
            self._at = after
        return False


def _field(head: bytes, name: bytes) -> bytes:
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    return head[start : head.find(_END_OF_LINE, start)].strip()


def _shown(data: bytes | bytearray) -> str:
    return repr(bytes(data[:_SHOWN]).decode("latin-1"))

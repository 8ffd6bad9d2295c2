"""Answers as they arrive, in pieces of any length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http_answer import AnswerError, AnswerReader

PLAIN = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    b"3\r\nhel\r\n0B;name=value\r\nlo\r\n\r\nthere\r\n0\r\nX-Trailer: x\r\n\r\n"
)
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
OLD = b"HTTP/1.0 200 OK\r\ncontent-length:2\r\n\r\nok"
ANSWERS = {
    PLAIN: (200, b"hello", True),
    CHUNKED: (503, b"hello\r\n\r\nthere", True),
    EARLY: (200, b"hello", True),
    EMPTY: (204, b"", False),
    OLD: (200, b"ok", False),
}


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(1, 40), max_size=20))
def test_answers_are_complete_with_their_last_byte_however_they_are_cut(answer, cuts):
    reader = AnswerReader()
    for _ in range(2):  # a connection has several
        at = 0
        for length in [*cuts, len(answer)]:
            piece, at = answer[at : at + length], at + length
            assert reader.feed(piece) is (at >= len(answer))
            if at >= len(answer):
                break
        status, body, keeps_open = ANSWERS[answer]
        assert (reader.status, reader.body(), reader.keeps_open) == (status, body, keeps_open)
        reader.clear()
        assert not reader.begun


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no length"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the connection closes", "no length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", "no size"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "does not end"),
    ],
)
def test_what_is_no_answer_is_said(data, words):
    with pytest.raises(AnswerError, match=words):
        AnswerReader().feed(data)

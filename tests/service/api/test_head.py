from __future__ import annotations

import pytest

from service.api.head import HeadError, check_head, with_path

HOST = (b"host", b"x")


@pytest.mark.parametrize(
    ("method", "version", "headers", "status"),
    [
        (b"GET", "1.1", [], 400),
        (b"GET", "1.1", [HOST, HOST], 400),
        (b"GET", "1.0", [HOST, HOST], 400),
        (b"POST", "1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")], 501),
        (b"CONNECT", "1.1", [HOST], 400),
    ],
)
def test_what_a_head_must_not_be(method, version, headers, status):
    with pytest.raises(HeadError) as raised:
        check_head(method, version, headers)
    assert raised.value.status == status


@pytest.mark.parametrize(
    ("version", "headers"),
    [("1.0", []), ("1.1", [HOST]), ("1.1", [HOST, (b"transfer-encoding", b"Chunked")])],
)
def test_what_it_may_be(version, headers):
    check_head(b"POST", version, headers)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        (b"/v1/models", b"/v1/models"),
        (b"/?to=http://a", b"/?to=http://a"),
        (b"*", b"*"),
        (b"http://a", b"http://a/"),
        (b"http://a:80?x=/1", b"http://a:80/?x=/1"),
        (b"http://a/b?x=1", b"http://a/b?x=1"),
    ],
)
def test_an_address_has_a_path(url, whole):
    assert with_path(url) == whole

"""What the clients do where connections break and servers are full, before a real server."""

from __future__ import annotations

import datetime
import email.utils
import re
import time

import pytest

from service.client import (
    AnswerError,
    ConnectionFailedError,
    OverloadedError,
    RequestRefusedError,
    ServerFaultError,
    TimedOutError,
)
from service.client.exchange import Deadline, _backoff_s, _seconds
from tests.conftest import draw
from tests.service.client.flaky import answer, cut, flaky, silence, swallow, trickle

FULL = (
    '{"code": "queue_full", "detail": "Full.", "hint": "Come back.", "request_id": "r1",'
    ' "title": "t", "status": 503}'
)


@pytest.fixture
def red(rng):
    return draw("red", rng)


def test_broken_connections_and_full_servers_are_asked_again(connect, server, red):
    faults = (
        cut,
        swallow,
        answer("503 Service Unavailable", "Retry-After: 0", body=FULL),
        answer("429 Too Many Requests", "Retry-After: 0"),
        answer("502 Bad Gateway", body="<html>"),
    )
    with flaky(server.url, *faults) as proxy, connect(proxy.url) as client:
        assert client.classify(red).top.label == "red"
        assert proxy.connections == len(faults) + 1


def test_many_images_come_through_a_connection_that_keeps_breaking(connect, server, red):
    with flaky(server.url, *[cut, swallow] * 5) as proxy, connect(proxy.url, retries=12) as client:
        results = list(client.classify_many([red] * 100, batch_size=10))
        assert [result.top.label for result in results] == ["red"] * 100
        assert [result.index for result in results] == list(range(100))
        assert not proxy.faults


def test_retry_after_is_waited_for(connect, server, red):
    fault = answer("503 Service Unavailable", "Retry-After: 1", body=FULL)
    with flaky(server.url, fault) as proxy, connect(proxy.url) as client:
        started = time.monotonic()
        client.classify(red)
        assert time.monotonic() - started >= 1


def test_a_wait_that_is_too_long_is_not_begun(connect, server, red):
    fault = answer("503 Service Unavailable", "Retry-After: 100", body=FULL)
    with flaky(server.url, fault) as proxy, connect(proxy.url, timeout=20) as client:
        with pytest.raises(OverloadedError, match=r"Come back\. \(503 queue_full") as caught:
            client.classify(red)
        assert caught.value.retry_after == 100
        assert caught.value.request_id == "r1"
        assert proxy.connections == 1


def test_retries_end(connect, server, red):
    with flaky(server.url, *[cut] * 10) as proxy, connect(proxy.url, retries=2) as client:
        with pytest.raises(ConnectionFailedError):
            client.classify(red)
        assert proxy.connections == 3
        with pytest.raises(ConnectionFailedError):
            list(client.classify_many([red]))
        assert proxy.connections == 6


def test_who_is_told_when_to_come_back_comes_until_the_deadline(connect, server, red):
    full = answer("429 Too Many Requests", "Retry-After: 0")
    with flaky(server.url, *[full] * 4) as proxy, connect(proxy.url, retries=0) as client:
        assert client.classify(red).top.label == "red"
        assert proxy.connections == 5
    for faults, timeout in ((100, 1), (1, None)):
        with (
            flaky(server.url, *[full] * faults) as proxy,
            connect(proxy.url, retries=0, timeout=timeout) as client,
            # Of the two, what is found first at the deadline.
            pytest.raises((OverloadedError, TimedOutError)),
        ):
            client.classify(red)


def test_what_another_attempt_would_not_change_is_not_tried_again(connect, server, red):
    for status, kind in (
        ("400 Bad Request", RequestRefusedError),
        ("401 Unauthorized", RequestRefusedError),
        ("404 Not Found", RequestRefusedError),
        ("301 Moved Permanently", AnswerError),
        ("500 Internal Server Error", ServerFaultError),
        ("504 Gateway Timeout", TimedOutError),
    ):
        faults = answer(status, "Location: https://elsewhere/"), cut
        with flaky(server.url, *faults) as proxy, connect(proxy.url) as client:
            with pytest.raises(kind, match=status[:3]) as caught:
                client.classify(red)
            assert proxy.connections == 1, status
            if status[:3] == "401":
                assert "ADARESNET_API_KEY" in str(caught.value)


@pytest.mark.parametrize("fault", [silence, trickle])
def test_the_deadline_holds_for_the_whole_call(connect, server, red, fault):
    with flaky(server.url, fault) as proxy, connect(proxy.url) as client:
        started = time.monotonic()
        with pytest.raises(TimedOutError, match="within 1 s") as caught:
            client.classify(red, timeout=1)
        assert 1 <= time.monotonic() - started < 10  # a trickle goes on for thirty
        assert isinstance(caught.value, TimeoutError)
        assert proxy.connections == 1


def test_the_server_hears_how_much_time_is_left(connect, server, red):
    fault = answer("503 Service Unavailable", "Retry-After: 1", body=FULL)
    with flaky(server.url, fault) as proxy, connect(proxy.url) as client:
        client.classify(red, timeout=7)
    (said,) = re.findall(rb"(?i)x-request-timeout: ([0-9.]+)", proxy.heads[0])
    assert float(said) <= 6


def test_the_server_gives_up_at_the_deadline(connect, server, red):
    with connect(server.url) as client, pytest.raises(TimedOutError):
        client.classify(red, timeout=1e-6)


def test_a_client_without_a_limit_names_none(connect, server, red):
    with flaky(server.url) as proxy, connect(proxy.url, timeout=None) as client:
        assert client.classify(red).top.label == "red"
        assert b"x-request-timeout" not in proxy.heads[0].lower()


def test_a_key_is_sent(connect, server, red):
    with flaky(server.url) as proxy, connect(proxy.url, api_key="k-1") as client:
        client.classify(red)
        assert b"authorization: bearer k-1" in proxy.heads[0].lower()


def test_backoff_grows_and_is_spread():
    for attempt in range(20):
        waits = [_backoff_s(attempt, None) for _ in range(200)]
        assert 0 <= min(waits) <= max(waits) <= min(10, 0.1 * 2**attempt)
        assert len(set(waits)) > 100
        assert 3 <= _backoff_s(attempt, 3) <= 6
        assert 0 <= _backoff_s(attempt, 0) <= 1


def test_retry_after_is_seconds_or_a_date():
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    assert _seconds("2") == 2
    assert 80 < (_seconds(email.utils.format_datetime(then, usegmt=True)) or 0) <= 90
    assert _seconds("Thu, 01 Jan 2015 00:00:00 GMT") == 0
    for nonsense in (None, "", "soon", "inf", "nan"):
        assert _seconds(nonsense) is None


def test_a_deadline_counts_down():
    deadline = Deadline(0.05)
    assert deadline.leaves(0)
    assert not deadline.leaves(1)
    time.sleep(0.06)
    assert deadline.left_s() == 0
    assert Deadline(None).leaves(1e9)

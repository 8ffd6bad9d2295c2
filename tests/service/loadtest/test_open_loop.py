"""The open loop, against small servers that stand still, refuse, hang up and fall silent."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from service.latency import Histogram
from service.loadtest.measurement import Load, Measurement
from service.loadtest.open_loop import Address, measure
from service.loadtest.precise import event_loop
from tests.conftest import free_port
from tests.service.loadtest.made_up import OK, answering, endlessly

FAULT = b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"
QUICK = Load(200.0, "constant", seconds=0.5, warm_up_s=0.0, connections=4, timeout_s=5.0)


def run(address: Address, load: Load = QUICK) -> Measurement:
    with asyncio.Runner(loop_factory=event_loop) as runner:
        found = runner.run(measure(address, load, endlessly()))
    assert found.due == found.answered + found.failed  # nobody is forgotten
    return found


def above(histogram: Histogram, seconds: float) -> int:
    return sum(count for bound_s, count in histogram.buckets() if bound_s > seconds)


def test_all_is_sent_and_counted_once():
    with answering(lambda number: OK) as server:
        found = run(server.address)
    assert (found.due, found.answered, found.failures) == (100, 100, {})
    assert server.requests == 100
    assert found.latencies.total == found.service_times.total == found.lags.total == 100
    assert found.achieved_per_s == found.in_time / 0.5


def test_the_warm_up_is_sent_but_not_counted():
    load = Load(200.0, "constant", seconds=0.25, warm_up_s=0.25, connections=4)
    with answering(lambda number: OK if number >= 50 else FAULT) as server:
        found = run(server.address, load)
    assert server.requests == 100
    assert (found.due, found.answered, found.failures) == (50, 50, {})


def test_a_server_that_stands_still_is_seen_in_the_latency_of_all_who_would_have_come():
    """Coordinated omission: only two requests are on their way while it stands still."""
    still = threading.Event()

    def answer(number: int) -> bytes:
        if number == 100:
            threading.Timer(1.0, still.set).start()
        if number >= 100:
            still.wait()
        return OK

    load = Load(200.0, "constant", seconds=4.0, warm_up_s=0.0, connections=2)
    with answering(answer) as server:
        found = run(server.address, load)
        assert server.most_open == 2
    assert found.failures == {}
    # Of 800 requests some 200 were due in this second. Half of them waited for half of it.
    assert above(found.latencies, 0.5) >= 80
    assert found.latencies.percentile_s(0.99) > 0.5
    # Who counts from when requests were sent sees two slow ones.
    assert above(found.service_times, 0.5) == 2
    assert found.service_times.percentile_s(0.99) < 0.5


def test_a_server_that_falls_silent_holds_nothing_up():
    silent = threading.Event()

    def answer(number: int) -> bytes | None:
        if number >= 20:
            silent.wait()
            return None
        return OK

    load = Load(100.0, "constant", seconds=1.0, warm_up_s=0.0, connections=3, timeout_s=0.4)
    with answering(answer) as server:
        found = run(server.address, load)
        silent.set()
    assert found.answered == 20
    waited, unsent = "no answer within 0.4 s", "not sent within 0.4 s: all connections were busy"
    assert set(found.failures) <= {waited, unsent, "no connection within 0.4 s"}
    assert found.failures[waited] >= 3
    assert found.failures[unsent] > 20
    assert above(found.latencies, 0.39) == 80  # they waited so long, though in vain
    assert found.latencies.percentile_s(0.5) >= 0.4


def test_refusals_are_counted_by_status_and_code_with_an_example():
    problem = json.dumps({"code": "queue_full", "detail": "512 images are waiting."}).encode()
    full = b"HTTP/1.1 503 x\r\nContent-Length: %d\r\n\r\n%s" % (len(problem), problem)
    other = b"HTTP/1.1 502 x\r\nContent-Length: 9\r\n\r\n<b>no</b>"
    odd = b"HTTP/1.1 799 x\r\nContent-Length: 16\r\n\r\n" + b'{"code": "A\\nB"}'
    answers = [full, other, odd, OK]
    with answering(lambda number: answers[number % 4]) as server:
        found = run(server.address)
    assert found.failures == {"503 queue_full": 25, "502 Bad Gateway": 25, "799": 25}
    assert found.examples["503 queue_full"] == "512 images are waiting."
    assert found.examples["502 Bad Gateway"] == "<b>no</b>"
    assert found.latencies.total == found.answered == 25
    assert found.error_share == 0.75


def test_connections_that_are_lost_are_failures():
    with answering(lambda number: None) as server:
        found = run(server.address)
    assert found.failures == {"connection lost": 100}


def test_a_connection_that_was_closed_for_being_idle_is_no_failure():
    seen: dict[str, int] = {}

    def answer(number: int) -> bytes | None:
        # Each connection has one answer, and is closed when its next request comes.
        name = threading.current_thread().name
        seen[name] = seen.get(name, 0) + 1
        return OK if seen[name] == 1 else None

    with answering(answer) as server:
        found = run(server.address)
    assert (found.answered, found.failures) == (100, {})


def test_a_server_that_closes_after_each_answer_gets_new_connections():
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with answering(lambda number: closing) as server:
        found = run(server.address)
        assert server.connections == 100
    assert (found.answered, found.failures) == (100, {})


def test_what_is_no_answer_is_a_failure_and_said():
    with answering(lambda number: b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as server:
        found = run(server.address)
    ((reason, count),) = found.failures.items()
    assert "not HTTP/1.1" in reason
    assert count == 100


def test_nobody_listens():
    found = run(Address("127.0.0.1", free_port()))
    assert found.failures == {"no connection: Connection refused": 100}
    assert found.latencies.total == 0


def test_when_it_is_cancelled_what_was_measured_counts():
    async def interrupted(address: Address) -> Measurement:
        load = Load(100.0, "constant", seconds=60, warm_up_s=0.0, connections=4)
        work = asyncio.create_task(measure(address, load, endlessly()))
        await asyncio.sleep(0.6)
        work.cancel()
        return await work

    with answering(lambda number: OK) as server:
        found = asyncio.run(interrupted(server.address))
    assert found.interrupted
    assert 0 < found.answered < 100
    assert 0 < found.seconds < 60
    assert found.achieved_per_s == found.in_time / found.seconds


@pytest.mark.parametrize("load", [QUICK, Load(500.0, "poisson", 0.5, 0.1, 2, 5.0)])
def test_no_more_connections_than_allowed(load):
    with answering(lambda number: OK) as server:
        found = run(server.address, load)
        assert server.most_open <= load.connections
    assert found.failures == {}

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.admission import Admission, AdmissionLimits
from service.engine.errors import QueueFullError, RequestTooLargeError


def test_images_and_memory_are_bounded_and_given_back():
    admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
    admission.enter(6, 60)
    with pytest.raises(QueueFullError, match="6 images are in work; the limit is 10"):
        admission.enter(5, 1)
    with pytest.raises(QueueFullError, match="60 bytes"):
        admission.enter(1, 41)
    admission.enter(4, 40)
    admission.leave(4, 40)
    admission.leave(6, 60)
    admission.enter(10, 100)
    assert admission.images == 10


def test_what_can_never_fit_is_refused_for_good():
    with pytest.raises(RequestTooLargeError, match="101"):
        Admission(AdmissionLimits(images=10, pixel_bytes=100)).enter(1, 101)


def test_requests_under_way_wait_for_room_in_turn():
    async def scenario() -> None:
        admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
        admission.enter(8, 0)
        first = asyncio.create_task(admission.enter_later(4, 0))
        second = asyncio.create_task(admission.enter_later(1, 0))
        await asyncio.sleep(0)
        assert not first.done()
        assert not second.done()  # it would fit, but the first would then never
        admission.leave(8, 0)
        await asyncio.gather(first, second)
        assert admission.images == 5

    asyncio.run(scenario())


def overtaking(admission: Admission, images: int, pixel_bytes: int) -> int:
    """How many requests, one after the other, may overtake."""
    for count in range(1000):
        try:
            admission.enter(images, pixel_bytes)
        except QueueFullError:
            return count
        admission.leave(images, pixel_bytes)
    pytest.fail("there is no end of it")


def test_small_requests_overtake_one_that_waits_but_not_for_ever():
    async def scenario() -> None:
        admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
        admission.enter(8, 0)
        waiting = asyncio.create_task(admission.enter_later(3, 0))
        await asyncio.sleep(0)
        admission.enter(2, 0)  # there is room for these, and none for what waits
        with pytest.raises(QueueFullError, match="10 images are in work"):
            admission.enter(1, 0)
        admission.leave(2, 0)
        assert 4 <= overtaking(admission, 2, 0) <= 5  # times two images, besides the two before
        assert not waiting.done()
        admission.leave(1, 0)
        await waiting
        admission.leave(1, 0)
        admission.enter(1, 0)  # nobody waits any more

    asyncio.run(scenario())


def test_what_overtook_one_that_gave_up_counts_against_nobody_else():
    async def scenario() -> None:
        admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
        admission.enter(9, 0)
        for _ in range(2):
            waiting = asyncio.create_task(admission.enter_later(2, 0))
            await asyncio.sleep(0)
            assert overtaking(admission, 1, 0) == 8
            waiting.cancel()
            await asyncio.wait([waiting])

    asyncio.run(scenario())


def test_memory_counts_when_others_overtake():
    async def scenario() -> None:
        admission = Admission(AdmissionLimits(images=1000, pixel_bytes=100))
        admission.enter(1, 95)
        waiting = asyncio.create_task(admission.enter_later(1, 10))
        await asyncio.sleep(0)
        assert 19 <= overtaking(admission, 1, 2) <= 20
        waiting.cancel()

    asyncio.run(scenario())


@given(
    wanted=st.integers(1, 10),
    requests=st.lists(st.tuples(st.integers(1, 10), st.integers(0, 100)), max_size=300),
)
def test_whoever_waits_gets_in_however_many_others_come(wanted, requests):
    async def scenario() -> None:
        admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
        admission.enter(10, 0)
        waiting = asyncio.create_task(admission.enter_later(wanted, 0))
        await asyncio.sleep(0)
        admission.leave(1, 0)  # the first is done, the others one by one
        others, passed = deque[tuple[int, int]]([(1, 0)] * 9), 0
        for images, pixel_bytes in requests:
            with contextlib.suppress(QueueFullError):
                admission.enter(images, pixel_bytes)
                others.append((images, pixel_bytes))
                passed += 0 if waiting.done() else images
            if others:
                admission.leave(*others.popleft())
            await asyncio.sleep(0)
            assert passed <= 4 * wanted
        while others:
            admission.leave(*others.popleft())
        await asyncio.wait_for(waiting, 1)
        assert admission.images == wanted

    asyncio.run(scenario())


@pytest.mark.parametrize("has_entered", [False, True])
def test_who_stops_waiting_holds_no_place(has_entered):
    async def scenario() -> None:
        admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
        admission.enter(8, 0)
        leaving = asyncio.create_task(admission.enter_later(4, 0))
        behind = asyncio.create_task(admission.enter_later(2, 0))
        await asyncio.sleep(0)
        if has_entered:
            admission.leave(8, 0)
        leaving.cancel()
        await asyncio.wait([leaving])
        await behind
        assert admission.images == (2 if has_entered else 10)

    asyncio.run(scenario())


def test_who_stops_waiting_in_the_moment_there_is_room_is_just_gone():
    async def scenario() -> None:
        admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
        admission.enter(8, 0)
        leaving = asyncio.create_task(admission.enter_later(4, 0))
        await asyncio.sleep(0)
        leaving.cancel()
        admission.leave(8, 0)  # before it learns of it
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert admission.images == 0

    asyncio.run(scenario())

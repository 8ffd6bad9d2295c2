from __future__ import annotations

import asyncio

import pytest

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


def test_a_request_under_way_waits_for_room_in_turn_and_new_ones_do_not_overtake():
    async def scenario() -> None:
        admission = Admission(AdmissionLimits(images=10, pixel_bytes=100))
        admission.enter(8, 0)
        first = asyncio.create_task(admission.enter_later(4, 0))
        second = asyncio.create_task(admission.enter_later(1, 0))
        await asyncio.sleep(0)
        assert not first.done()
        assert not second.done()  # it would fit, but the first would then never
        with pytest.raises(QueueFullError):
            admission.enter(1, 0)
        admission.leave(8, 0)
        await asyncio.gather(first, second)
        assert admission.images == 5

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

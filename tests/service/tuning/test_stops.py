from __future__ import annotations

import signal

import pytest

from service.tuning import stops


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_for_the_end_of_the_block(stop):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    done = []

    def stopped() -> None:
        with stops.deferred():
            signal.raise_signal(stop)
            done.append(stop)

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert done == [stop]
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_without_a_stop_nothing_happens():
    with stops.deferred():
        pass

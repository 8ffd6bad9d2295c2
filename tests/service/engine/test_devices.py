from __future__ import annotations

import pytest

from service.engine.devices import CPU, Device, Devices, parse_devices, spread_lanes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("auto", Devices((Device("cuda"),), demanded=False)),
        ("cpu", Devices((CPU,))),
        ("cuda", Devices((Device("cuda", 0),))),
        ("cuda:1", Devices((Device("cuda", 1),))),
        ("cuda:0,cuda:1", Devices((Device("cuda", 0), Device("cuda", 1)))),
        ("tensorrt:2, tensorrt", Devices((Device("tensorrt", 2), Device("tensorrt", 0)))),
    ],
)
def test_devices_are_read(text, found):
    assert parse_devices(text) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tpu", "none of auto, cpu, cuda and tensorrt"),
        ("", "none of auto"),
        ("cuda:", "none of auto"),
        ("cuda:-1", "none of auto"),
        ("CUDA", "none of auto"),
        ("cpu,cuda", "'cpu' in 'cpu,cuda' is no GPU"),
        ("cuda,auto", "no GPU"),
        ("cuda:0,tensorrt:1", "mixes cuda and tensorrt"),
        ("cuda,cuda:0", "names a GPU twice"),
    ],
)
def test_what_is_no_device_is_refused_in_one_line(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_devices(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["cpu", "cuda:0", "cuda:1", "tensorrt:12"])
def test_a_device_is_written_as_it_is_read(text):
    (device,) = parse_devices(text).each
    assert str(device) == text


def test_lanes_are_spread_over_devices_in_turns():
    first, second = parse_devices("cuda:0,cuda:1").each
    assert spread_lanes((first, second), 4) == [first, second, first, second]
    assert spread_lanes((first,), 2) == [first, first]
    assert spread_lanes((first, second), 1) == [first]

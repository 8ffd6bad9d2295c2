from __future__ import annotations

import argparse
import math

import pytest

from service.tuning.quantities import mebibytes, milliseconds, parse_duration, parse_size, rate


@pytest.mark.parametrize(
    ("text", "seconds"), [("20ms", 0.02), ("0.5s", 0.5), (".5 S", 0.5), ("300us", 3e-4)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("200MiB", 200 * 2**20), ("1.5 gib", 3 * 2**29), ("64KiB", 65536)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "20", "ms", "0ms", "-1s", "1e3ms", "1.2.3s", "20m", "nan s"])
def test_what_is_no_duration_or_size(text):
    with pytest.raises(argparse.ArgumentTypeError, match="20ms"):
        parse_duration(text)
    with pytest.raises(argparse.ArgumentTypeError, match="MiB"):
        parse_size(text.replace("ms", "MB").replace("s", "B"))


def test_how_they_are_written():
    assert [milliseconds(s) for s in (0.00123, 0.0183, 0.351)] == ["1.23 ms", "18.3 ms", "351 ms"]
    assert milliseconds(math.inf) == "no answer"
    assert mebibytes(150 * 2**20) == "150 MiB"
    assert [rate(value) for value in (7.256, 72.56, 1725.6)] == ["7.26", "72.6", "1726"]

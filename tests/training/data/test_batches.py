from __future__ import annotations

import gc
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.metadata import Resize
from training.data.batches import AHEAD, read_batches
from training.data.dataset import DataError, LoadOptions, StreamedSplit, load_data

CPU = torch.device("cpu")


def threads() -> int:
    return sum(thread.name.startswith("decode") for thread in threading.enumerate())


@pytest.fixture(scope="module")
def both(image_folder):
    options = LoadOptions(memory_bytes=0)
    whole = load_data(str(image_folder), 8, Resize(), 0).train
    return whole, load_data(str(image_folder), 8, Resize(), 0, options).train


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 191), max_size=20), max_size=8),
    workers=st.integers(0, 5),
)
def test_streamed_batches_equal_those_from_memory(both, batches, workers):
    whole, streamed = both
    wanted = [torch.tensor(batch, dtype=torch.int64) for batch in batches]
    ours = list(read_batches(streamed, wanted, CPU, workers))
    theirs = list(read_batches(whole, wanted, CPU, workers))
    assert len(ours) == len(theirs) == len(wanted)
    for (pixels, labels), (expected, names), batch in zip(ours, theirs, wanted, strict=True):
        assert torch.equal(pixels, expected)
        assert torch.equal(labels, names)
        assert torch.equal(expected, whole.pixels[batch])
    assert threads() == 0


def test_an_iterator_that_is_closed_or_let_go_leaves_no_threads(both):
    batches = torch.split(torch.randperm(192), 8)
    reading = read_batches(both[1], batches, CPU, 3)
    assert threads() == 0
    next(reading)
    assert threads() > 0
    reading.close()
    assert threads() == 0
    for _ in read_batches(both[1], batches, CPU, 3):
        break
    gc.collect()
    assert threads() == 0


def test_never_more_than_a_few_batches_ahead(both):
    streamed = both[1]
    asked = []

    class Watched:
        """The same pictures; notes which are asked for."""

        def __len__(self) -> int:
            return len(streamed.pictures)

        def name(self, row):
            return streamed.pictures.name(row)

        def encoded(self, rows):
            asked.extend(rows)
            return streamed.pictures.encoded(rows)

    watched = StreamedSplit(Watched(), streamed.rows, streamed.labels, 8, Resize())
    batches = torch.split(torch.arange(192), 4)
    for position, _ in enumerate(read_batches(watched, batches, CPU, 2)):
        assert len(asked) <= 4 * (position + 1 + AHEAD)


def test_a_picture_that_goes_away_while_training_is_named(pets):
    options = LoadOptions(memory_bytes=0)
    split = load_data(str(pets), 8, Resize(), 0, options).train
    (pets / "train" / "dog" / "3.png").unlink()
    reading = read_batches(split, torch.split(torch.arange(10), 2), CPU, 2)
    with pytest.raises(DataError, match=r"dog/3\.png was readable .* No such file"):
        list(reading)
    assert threads() == 0

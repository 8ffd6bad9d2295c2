"""Pictures and labels as a source gives them, before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.data.pictures import Pictures
from training.data.splits import DataError

BadFiles = Literal["refuse", "skip"]

TEST_SPLITS = ("test", "validation", "valid")
HELD_OUT_NAME = "held out"
HELD_OUT = 0.1  # share of the training images that is the test split where the data has none
NO_LABEL = -1
LISTED = 10


@dataclass(frozen=True)
class LoadOptions:
    """How a data set is read.

    Attributes:
        bad_files: Refuse the whole set, or leave bad pictures out.
        memory_bytes: Sets that are larger than this when decoded are streamed; None: half of the
            memory that is free.
        workers: Threads that decode; None: one a CPU.
        image_column: Column of a table that holds the pictures; None: the first one that can.
        label_column: Column of a table that holds the labels; None: the first class label, or the
            column that is named like one.
    """

    bad_files: BadFiles = "refuse"
    memory_bytes: int | None = None
    workers: int | None = None
    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Candidates:
    """Pictures of one split, good and bad.

    Attributes:
        pictures: Where the encoded pictures are.
        rows: int64 [N], rows of ``pictures``, in the order of the split.
        labels: int64 [N], indices into the class names; ``NO_LABEL`` where there is no usable one.
        faults: Why a row has no usable label, where there is more to say than that.
    """

    pictures: Pictures
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    faults: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: NDArray[np.int64]) -> Candidates:
        """Those at ``positions``, in that order."""
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    def name(self, position: int) -> str:
        """What a person finds the picture by."""
        return self.pictures.name(int(self.rows[position]))


@dataclass(frozen=True)
class Labelled:
    """A data set as its source gives it.

    Attributes:
        class_names: Labels, in the order of their indices.
        train: Training pictures.
        test: Test pictures; None where the source has no such split.
        test_name: Name of the split that ``test`` is.
        published: A table that people share as it is: pictures with two labels are part of it. In a
            person's own folder they are mistakes.
    """

    class_names: tuple[str, ...]
    train: Candidates
    test: Candidates | None
    test_name: str
    published: bool

    def with_test(self, seed: int) -> tuple[Candidates, Candidates]:
        """Training and test pictures; a share of the former is held out if there are no latter.

        Raises:
            DataError: There are too few pictures to hold any out.
        """
        if self.test is not None:
            return self.train, self.test
        count = len(self.train)
        held_out = math.ceil(HELD_OUT * count)
        if held_out >= count:
            raise DataError(f"{count} pictures are too few: some are needed to test the network")
        # As datasets.Dataset.train_test_split draws, so that recorded digests stay valid.
        order = np.random.default_rng(seed).permutation(count)
        return self.train.take(order[held_out:]), self.train.take(order[:held_out])


def listed(bad: Sequence[tuple[Candidates, int, str]]) -> str:
    """The first pictures by name, indented, each with its reason, and how many more there are."""
    more = len(bad) - LISTED
    shown = [f"\n  {split.name(position)}: {reason}" for split, position, reason in bad[:LISTED]]
    return "".join(shown) + (f"\n  and {more:,} more" if more > 0 else "")

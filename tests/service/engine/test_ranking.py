from __future__ import annotations

import numpy as np
import pytest

from service.engine.ranking import rank, rank_finite, rank_one


def test_most_probable_first_and_ties_by_lower_index():
    ranking = rank(np.array([[0.1, 0.4, 0.1, 0.4]], np.float32), 3)
    assert ranking.class_ids.tolist() == [[1, 3, 0]]
    assert ranking.probabilities.tolist() == np.array([[0.4, 0.4, 0.1]], np.float32).tolist()


def test_more_than_there_are_keeps_all_and_nan_comes_last():
    ranking = rank(np.array([[np.nan, 0.2, 0.8]], np.float32), 9)
    assert ranking.class_ids.tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("classes", [3, 100])
def test_what_is_not_finite_is_not_ranked(bad, classes, rng):
    good = rng.random((4, classes), np.float32)
    mixed = good[[0, 1, 1, 2, 3]]
    mixed[2, -1] = bad
    ranking, others = rank_finite(mixed, 2)
    assert others == [2]
    expected = rank(good, 2)
    assert ranking.class_ids.tolist() == expected.class_ids.tolist()
    assert ranking.probabilities.tolist() == expected.probabilities.tolist()
    assert rank_one(mixed[2:3], 2) is None
    ((class_ids, _),) = rank_one(mixed[:1], 2) or ()
    assert list(class_ids) == expected.class_ids[0].tolist()
    none, others = rank_finite(mixed[2:3], 2)
    assert (list(none), others) == ([], [0])
